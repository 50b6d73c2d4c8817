"""Write train.jsonl and eval.jsonl: a customer's message to a web shop -> one JSON object for the ticket system.

    python generate.py            # the same bytes every time (fixed seed)

The two files share the label scheme and nothing else that would give answers away: sentence templates, names of the
products, openers, closers, urgent phrases and order numbers of the evaluation set never occur in the training set.
All text was written for this project and is under its licence (Apache-2.0).
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 20260
TRAIN_ROWS, EVAL_ROWS = 400, 120

SYSTEM = (
    "Reply with JSON: intent (refund, delivery, cancel, defect, billing or account), product, urgent (true or false), "
    "order_id. Unknown: null."
)

# label -> (names in training messages, names in evaluation messages)
PRODUCTS = {
    "kettle": (["kettle", "electric kettle", "tea kettle", "steel kettle"], ["water kettle", "red kettle"]),
    "lamp": (["lamp", "desk lamp", "floor lamp", "bedside lamp"], ["reading lamp", "led lamp", "table lamp"]),
    "headphones": (["headphones", "wireless headphones"], ["bluetooth headphones", "white headphones"]),
    "backpack": (["backpack", "hiking backpack", "laptop backpack"], ["school backpack", "green backpack"]),
    "blender": (["blender", "hand blender", "smoothie blender"], ["kitchen blender", "glass blender"]),
    "keyboard": (["keyboard", "mechanical keyboard", "usb keyboard"], ["black keyboard", "compact keyboard"]),
    "chair": (["chair", "office chair", "kitchen chair"], ["desk chair", "garden chair"]),
    "jacket": (["jacket", "rain jacket", "winter jacket"], ["denim jacket", "blue jacket"]),
    "toaster": (["toaster", "two slice toaster", "chrome toaster"], ["retro toaster", "silver toaster"]),
    "monitor": (["monitor", "27 inch monitor", "curved monitor"], ["4k monitor", "second monitor"]),
    "tent": (["tent", "family tent", "dome tent"], ["camping tent", "small tent"]),
    "watch": (["watch", "fitness watch", "sports watch"], ["running watch", "steel watch"]),
}  # fmt: skip

# intent -> (training templates, evaluation templates); {p} product, {o} how the order is named ("order 4821")
TEMPLATES = {
    "refund": (
        [
            "i want my money back for the {p}, {o}",
            "please refund {o}, the {p} is not what i expected",
            "how do i get a refund for my {p}?",
            "i sent the {p} back two weeks ago and still have no refund. {o}",
            "the {p} does not fit, i would like to return it and get the money back",
            "i returned {o}. when will you pay the money back?",
            "can you refund me? i don't like the {p}",
            "requesting a full refund for {o} ({p})",
            "you promised to refund the {p} but nothing came, {o}",
            "not happy with this {p}. money back please",
            "i'd like to send {o} back for a refund",
            "where is the refund for {o}?",
        ],
        [
            "i brought the {p} to the post to return it, now i wait for my money. {o}",
            "could i return the {p} and be refunded?",
            "{o}: refund still missing, the {p} went back to you last month",
            "i changed my mind about the {p}, give me my money back",
            "what do i have to do to be refunded for {o}?",
            "i want to give the {p} back and have my money returned",
            "{o} went back by post, the refund never came",
            "a refund for the {p} would be great, it is too big for me",
        ],
    ),
    "delivery": (
        [
            "where is my {p}? {o}",
            "{o} has not arrived yet",
            "when will the {p} be delivered?",
            "tracking for {o} has not moved for days",
            "my {p} should have been here on monday, {o}",
            "the courier says delivered but i got no {p}",
            "has {o} been shipped?",
            "still waiting for my {p}, any news?",
            "the parcel with the {p} seems to be lost, {o}",
            "i need to know the delivery date of {o}",
            "can you send {o} to a different address?",
            "nobody was home, when does the {p} come again? {o}",
        ],
        [
            "any idea when {o} gets here?",
            "i have been waiting ten days for the {p} to arrive, {o}",
            "the tracking page for my {p} shows nothing",
            "did the parcel with {o} get lost on the way?",
            "what day will you deliver the {p}? {o}",
            "it says out for delivery since friday but no {p} came, {o}",
            "how long does the delivery of the {p} take?",
            "{o} is late, where is it now?",
        ],
    ),
    "cancel": (
        [
            "please cancel {o}",
            "i ordered the {p} by mistake, cancel it please. {o}",
            "cancel my {p} order",
            "i don't need the {p} any more, stop {o}",
            "can i still cancel {o}? it has not been sent",
            "i clicked twice, please cancel one {p}",
            "stop the order for the {p} before it ships, {o}",
            "i want to cancel the {p} i bought yesterday",
            "please do not send {o}, i changed my mind",
            "cancellation of {o} please",
            "i found the {p} cheaper, so cancel {o}",
            "is it too late to cancel the {p}?",
        ],
        [
            "kindly cancel the {p} from {o}",
            "i ordered the wrong {p}, can you cancel that?",
            "{o} should be cancelled before you send it",
            "don't ship the {p}, i want to cancel",
            "i'd like to cancel what i bought last night, {o}",
            "please take the {p} out of {o}, i do not want it now",
            "cancel everything in {o}",
            "can you stop the {p} order before it leaves the warehouse?",
        ],
    ),
    "defect": (
        [
            "the {p} arrived broken, {o}",
            "my {p} stopped working after two days",
            "the {p} from {o} makes a strange noise",
            "there is a crack in the {p}, {o}",
            "the {p} does not turn on",
            "a part of the {p} is missing, {o}",
            "my new {p} is damaged. {o}",
            "the {p} smells burnt when i use it",
            "i got a faulty {p} in {o}",
            "the {p} fell apart on the first day",
            "{o} came damaged, the box was open",
            "the {p} is defective, can you repair it? {o}",
        ],
        [
            "after one week the {p} is broken, {o}",
            "the {p} won't work at all",
            "there are scratches and a hole in the {p} i got with {o}",
            "{o}: the {p} is faulty, it keeps falling apart",
            "my {p} came with a missing part",
            "the {p} is dead, nothing happens when i press the button",
            "what i got in {o} is damaged, one side is broken",
            "the {p} keeps switching off by itself, {o}",
        ],
    ),
    "billing": (
        [
            "i was charged twice for {o}",
            "the invoice for {o} is wrong",
            "why did you take 20 euros more than the price of the {p}?",
            "i need an invoice for the {p}, {o}",
            "my card was charged but there is no order",
            "the discount code was not applied to {o}",
            "please send me the receipt for the {p}",
            "the amount on my bank statement for {o} is not right",
            "you billed the {p} two times, {o}",
            "can i pay {o} in instalments?",
            "the vat number on the invoice is missing, {o}",
            "my payment for the {p} was declined",
        ],
        [
            "there are two charges for {o} on my card",
            "could you email the invoice of the {p}? {o}",
            "the price on the receipt for {o} is wrong",
            "my voucher was not taken off when i paid the {p}",
            "i paid the {p} but the payment shows as failed, {o}",
            "i never got a receipt for {o}",
            "you took the money for the {p} two times",
            "please correct the invoice, the address on it is wrong, {o}",
        ],
    ),
    "account": (
        [
            "i can't log in to my account",
            "how do i change my password?",
            "please delete my account",
            "i forgot my password and the reset mail does not come",
            "my account is locked",
            "i want to change the email address of my account",
            "someone else logged in to my account",
            "how can i update my phone number in the profile?",
            "the login page shows an error",
            "i have two accounts, please merge them",
            "unsubscribe my account from the newsletter",
            "the verification code for the login never arrives",
        ],
        [
            "logging in fails with my new password",
            "please close my account for good",
            "i no longer have the email that my account uses",
            "the password reset link does not work",
            "my profile shows the wrong name, how do i change it?",
            "i cannot sign in since this morning",
            "how do i remove my account?",
            "where can i change the password of my account?",
        ],
    ),
}

# What makes a message urgent; a message without such a phrase is not.
URGENT = (
    [
        "this is urgent!",
        "i need an answer today.",
        "asap please!",
        "please hurry!",
        "it is very urgent.",
        "right now please!",
        "answer me immediately.",
        "i need it solved today!",
    ],
    ["it is urgent!", "please act immediately.", "i need this fixed today!", "please answer asap.", "hurry up please!"],
)
# Polite phrases that say nothing about time.
CALM = (["", "", "", "please help.", "please let me know."], ["", "", "please advise.", "can you help me?"])

OPENERS = (
    ["", "", "", "hi,", "hello,", "hi there,", "good morning,", "dear team,", "hey,"],
    ["", "", "hi team,", "good evening,", "hello there,", "hey guys,"],
)
CLOSERS = (
    ["", "", "", "thanks", "thank you!", "regards, anna", "best, tom", "cheers"],
    ["", "", "many thanks", "kind regards, leo", "bye, mia"],
)
ORDER_FORMS = (
    ["order {n}", "order #{n}", "order no {n}", "my order {n}", "#{n}", "order number {n}"],
    ["order {n}", "order #{n}", "order nr {n}", "the order {n}"],
)
ORDER_FREE = (["my order", "the order"], ["my order", "this order"])


def make_row(rng: random.Random, intent: str, side: int) -> dict[str, object]:
    """One labelled message; side 0 is training, 1 is evaluation."""
    product = rng.choice(sorted(PRODUCTS))
    template = rng.choice(TEMPLATES[intent][side])
    urgent = rng.random() < 0.4
    # Even numbers train, odd numbers evaluate: no order number is on both sides.
    number = str(rng.randrange(1000, 9998, 2) + side) if "{o}" in template and rng.random() < 0.75 else None
    order = rng.choice(ORDER_FORMS[side]).format(n=number) if number else rng.choice(ORDER_FREE[side])
    message = template.format(p=rng.choice(PRODUCTS[product][side]), o=order)
    if message[-1] not in ".?!" and rng.random() < 0.7:
        message += "."
    parts = [message, rng.choice((URGENT if urgent else CALM)[side])]
    if urgent and rng.random() < 0.4:
        parts.reverse()
    text = " ".join([rng.choice(OPENERS[side]), *parts, rng.choice(CLOSERS[side])])
    text = write_like_people(rng, " ".join(text.split()), keep=product)
    answer = {
        "intent": intent,
        "product": product if "{p}" in template else None,
        "urgent": urgent,
        "order_id": number,
    }
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": text},
            {"role": "assistant", "content": json.dumps(answer)},
        ]
    }


def write_like_people(rng: random.Random, text: str, *, keep: str) -> str:
    """Case, punctuation and typing mistakes; the product's name and digits stay readable."""
    style = rng.random()
    if style < 0.5:
        text = text[0].upper() + text[1:]
        text = text.replace(" i ", " I ").replace(" i'd ", " I'd ")
    elif style < 0.56:
        text = text.upper()
    if rng.random() < 0.25:
        text = text.replace("'", "").replace(",", "")
    words = text.split(" ")
    candidates = [
        i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and keep.lower() not in word.lower()
    ]
    if candidates and rng.random() < 0.35:
        i = rng.choice(candidates)
        at = rng.randrange(1, len(words[i]) - 2)
        word = words[i]
        words[i] = rng.choice(
            [
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # swapped letters
                word[:at] + word[at + 1 :],  # dropped letter
                word[:at] + word[at] + word[at:],  # doubled letter
            ]
        )
    return " ".join(words)


def make_rows(rng: random.Random, count: int, side: int) -> list[dict[str, object]]:
    """`count` rows with different messages, the intents in equal shares, shuffled."""
    intents = sorted(TEMPLATES)
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    while len(rows) < count:
        row = make_row(rng, intents[len(rows) % len(intents)], side)
        key = json.dumps(row["messages"][1]["content"].lower())  # type: ignore[index]
        if key not in seen:
            seen.add(key)
            rows.append(row)
    rng.shuffle(rows)
    return rows


def main(folder: Path) -> None:
    for name, count, side in (("train", TRAIN_ROWS, 0), ("eval", EVAL_ROWS, 1)):
        rng = random.Random(f"{SEED} {name}")
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in make_rows(rng, count, side)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
