import random

from skill.data.near import KEPT, NearIndex, words_of


def later(*texts: str) -> list[int]:
    index = NearIndex()
    for row, text in enumerate(texts):
        index.add(row, words_of(text))
    return index.later_rows()


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def similarity(one: list[str], other: list[str]) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def test_f1_at_jaccard_08() -> None:
    generator = random.Random(5)
    vocabulary = [f"w{i}" for i in range(3000)]
    rows = [generator.choices(vocabulary, k=generator.randint(12, 250)) for _ in range(600)]
    expected = set()
    for row in rows[:400]:
        copy = list(row)
        for _ in range(generator.randint(1, 1 + len(row) // 30)):
            copy[generator.randrange(len(copy))] = generator.choice(vocabulary)
        if similarity(row, copy) >= 0.8:
            expected.add(len(rows))
        rows.append(copy)
    found = set(later(*map(" ".join, rows)))
    assert 100 < len(expected) < 400
    assert 2 * len(found & expected) / (len(found) + len(expected)) >= 0.98


def test_the_later_of_a_pair_in_any_order_of_bands() -> None:
    text = " ".join(f"word{i}" for i in range(60))
    assert later(text, "another row that is quite different", text + " end", "start " + text) == [2, 3]


def test_long_rows_are_compared_by_their_smallest_hashes() -> None:
    words = [f"w{i}" for i in range(4 * KEPT)]
    half = words[: 2 * KEPT] + [f"v{i}" for i in range(2 * KEPT)]
    assert later(" ".join(words), " ".join(half), " ".join(words[5:])) == [2]


def test_short_rows_and_scripts_without_spaces() -> None:
    assert later("yes no", "yes", "YES  no", "") == [2]
    sentence = "今天天气很好我们一起去公园散步然后去吃晚饭吧朋友们都会来参加这个聚会"
    assert later(sentence, sentence + "吗", "完全不同的一句话在这里") == [1]
