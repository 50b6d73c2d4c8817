import pytest

from skill.data.personal import personal_codes, personal_spans


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("536-90-4399", "pii_ssn"),
        ("4111 1111 1111 1111", "pii_credit_card"),
        ("5500-0000-0000-0004", "pii_credit_card"),
        ("378282246310005", "pii_credit_card"),
        ("DE89 3704 0044 0532 0130 00", "pii_iban"),
        ("GB82WEST12345698765432", "pii_iban"),
        ("192.168.14.27", "pii_ip"),
        ("2001:db8:85a3:0:0:8a2e:370:7334", "pii_ip"),
        ("2001:db8::8a2e:370:7334", "pii_ip"),
    ],
)
def test_found(text: str, code: str) -> None:
    found = f"It is {text}, BIC and more."
    assert [found[start:end] for start, end, _ in personal_spans(found)] == [text]
    assert personal_codes(found) == [code]


@pytest.mark.parametrize(
    "text",
    ["4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "000-12-3456", "936-90-4399", "version 10.22.33.44",
     "1.2.3.4",
     "127.0.0.1", "255.255.255.0", "300.1.1.1", "12:30:45", "std::vector::begin", "v2.10.11.12", "AB12 CDEF"],
)  # fmt: skip
def test_not_found(text: str) -> None:
    assert personal_codes(f"It is {text} here") == []


def test_spans_do_not_overlap() -> None:
    text = "joe@x.org 536-90-4399 555-123-4567 joe@x.org"
    codes = [code for _, _, code in personal_spans(text)]
    assert codes == ["pii_email", "pii_ssn", "pii_phone", "pii_email"]
