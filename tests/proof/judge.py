"""The invariants, judged by Kopo Kopo's own journal: what it accepted, what became of it, and what we made of that.

It shares nothing with the code that it judges. `docs/reliability.md` says what each letter stands for.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]

FINAL = frozenset({"reversed", "failed"})
NEVER_ACCEPTED = frozenset({"not_sent", "rejected"})


@dataclass(frozen=True)
class Books:
    """What there is to be compared once everything has come to rest.

    Attributes:
        journal: Kopo Kopo's: every request in order, with `accepted` and the `id` of the reversal that it started.
        became: What became of an accepted reversal, by its id and its transaction reference: "Transferred",
            "Cancelled", or None if it is not decided.
        reversals: As `GET /reversals/{transaction_reference}` shows them, by transaction reference.
        events: As a subscriber received them, in order of arrival.
        kept: The ids of events that could not be published, and were kept whole for an operator.
        elsewhere: Transactions that were reversed in Kopo Kopo's own dashboard, of which a signed webhook told.
    """

    journal: Sequence[Document]
    became: Callable[[str, str], str | None]
    reversals: Mapping[str, Document]
    events: Sequence[Document]
    kept: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()


def violations(books: Books) -> Iterator[str]:
    """Every invariant that does not hold, in words that name the reversal."""
    accepted, sent = accepted_posts(books.journal), _posts(books.journal)
    events = defaultdict(list)
    for event in books.events:
        events[event["subject"]].append(event)
    for reference in sorted({*accepted, *books.reversals, *events}):
        posts, reversal = accepted.get(reference, []), books.reversals.get(reference)
        outcomes = [books.became(post["id"], reference) for post in posts]
        for letter, what in (
            ("A", _sent_twice(sent.get(reference, []), books.became)),
            ("B", _not_told(reversal, events[reference], books.kept)),
            ("C", _changed_by_itself(reversal)),
            ("D", _failed_without_evidence(reversal, posts, outcomes)),
            ("truth", _untrue(reversal, posts, outcomes, elsewhere=reference in books.elsewhere)),
        ):
            yield from (f"{letter}: {reference}: {it}" for it in what)
    for entry in books.journal:
        if entry["path"].startswith("/_trap"):
            yield f"E: a URL that came from outside was followed: {entry['method']} {entry['path']}"


def accepted_posts(journal: Sequence[Document]) -> dict[str, list[Document]]:
    """The POSTs that started a reversal, in order, by their transaction reference."""
    posts = _posts(journal)
    return {it: accepted for it in posts if (accepted := [post for post in posts[it] if post["accepted"]])}


def _posts(journal: Sequence[Document]) -> dict[str, list[Document]]:
    found = defaultdict(list)
    for entry in journal:
        if (entry["method"], entry["path"]) == ("POST", "/api/v2/reversals"):
            found[entry["transaction_reference"]].append(entry)
    return dict(found)


def token_requests(journal: Sequence[Document]) -> int:
    """How often a token was asked for: what invariant F bounds."""
    return sum(entry["path"] == "/oauth/token" for entry in journal)


def attempt_of(post: Document) -> int:
    """The attempt that a POST to Kopo Kopo was of, by the callback URL that it carried."""
    found = re.search(r"/kopokopo/results/[^/]+/(\d+)$", post["body"]["_links"]["callback_url"])
    return int(found[1]) if found else 0


def states(reversal: Document) -> Iterator[tuple[int, Document, tuple[str, int, bool], bool]]:
    """How a reversal came to stand as it does: version, entry, (status, attempt, conflict), and whether that is new.

    A change appends one entry and raises the version by one, so the last entry is of the last version. An entry against
    a final status has `conflict`, and leaves the status as it is; an operator's ends the conflict.
    """
    history = reversal["history"]
    first = reversal["version"] - len(history) + 1
    status, attempt, conflict = "initiating", 1, False
    for version, entry in enumerate(history, first):
        before = (status, attempt, conflict) if version > 1 else None
        if entry.get("conflict"):
            conflict = True
        elif entry["source"] == "operator":
            status, conflict = entry["status"], False
        elif entry["attempt"] >= attempt and entry["source"] in ("api", "callback", "webhook", "poll"):
            status, attempt = entry["status"], entry["attempt"]
        yield version, entry, (status, attempt, conflict), (status, attempt, conflict) != before


def _sent_twice(posts: Sequence[Document], became: Callable[[str, str], str | None]) -> Iterator[str]:
    """A: it was sent again although what was accepted before had not failed. That Kopo Kopo may refuse is no excuse."""
    before: Document | None = None
    for post in posts:
        if before and (outcome := became(before["id"], before["transaction_reference"])) != "Cancelled":
            yield f"sent again (journal line {post['sequence']}) after line {before['sequence']}, which is {outcome}"
        before = post if post["accepted"] else before


def _not_told(reversal: Document | None, events: Sequence[Document], kept: frozenset[str]) -> Iterator[str]:
    """B: a final result, or a conflict, of which no event tells; or two events of one id that tell different things."""
    told: dict[str, Document] = {}
    for it in events:
        if told.setdefault(it["id"], it) != it:
            yield f"two events have the id {it['id']}, and differ"
    if reversal is None:
        if events:
            yield "events tell of it, and it is not there"
        return
    for version, _, (status, _, conflict), is_news in states(reversal):
        if is_news and (conflict or status in FINAL):
            event_type = f"reversal.{'conflict' if conflict else status}"
            event_id = f"{reversal['transaction_reference']}:{version}"
            event = told.get(event_id)
            if event is None and event_id not in kept:
                yield f"no event tells that version {version} was {event_type}"
            elif event and event["type"] != event_type:
                yield f"the event of version {version} is {event['type']}, not {event_type}"
    news = [f"{reversal['transaction_reference']}:{version}" for version, _, _, is_news in states(reversal) if is_news]
    if told and not kept.intersection(news[-1:]):
        latest = max(told.values(), key=lambda event: event["sequence"])
        seen = (latest["data"]["status"], latest["data"]["attempt"], latest["data"]["conflict"])
        if reversal["status"] in FINAL and seen != _state(reversal):
            yield f"subscribers take it to be {seen}, and it is {_state(reversal)}"


def _changed_by_itself(reversal: Document | None) -> Iterator[str]:
    """C: a final status that was followed by another one without an operator or a new attempt, or belied in silence."""
    if reversal is None:
        return
    before: tuple[str, int, bool] | None = None
    for version, entry, after, _ in states(reversal):
        if before and before[0] in FINAL and after[0] != before[0] and entry["source"] != "operator":
            is_new_attempt = before[0] == "failed" and after[0] == "initiating" and after[1] == before[1] + 1
            if not is_new_attempt or before[2]:
                yield f"version {version} made {after} of {before}"
        if before and entry["attempt"] < before[1] and entry.get("evidence") == "transferred" and not after[2]:
            yield f"version {version} tells that attempt {entry['attempt']} moved money, and raises no conflict"
        before = after
    if before and _state(reversal) != before:
        yield f"its history says {before}, and it is {_state(reversal)}"
    if reversal["version"] - len(reversal["history"]) not in (0, 1):
        yield f"its history has {len(reversal['history'])} entries, and it is version {reversal['version']}"


def _failed_without_evidence(
    reversal: Document | None, posts: Sequence[Document], outcomes: Sequence[str | None]
) -> Iterator[str]:
    """D: an attempt that is failed, though Kopo Kopo accepted it and did not cancel it, or though nothing says so."""
    of_attempt = {attempt_of(post): outcome for post, outcome in zip(posts, outcomes, strict=True)}
    for _, entry, (status, _, _), is_news in states(reversal) if reversal else ():
        if entry["status"] != "failed" or entry["source"] == "operator":
            continue
        attempt, evidence = entry["attempt"], entry.get("evidence")
        if status == "failed" and is_news and evidence not in {"cancelled", *NEVER_ACCEPTED}:
            yield f"attempt {attempt} is failed by the evidence {evidence}"
        if evidence in NEVER_ACCEPTED and attempt in of_attempt:
            yield f"attempt {attempt} is {evidence}, and was accepted"
        if evidence == "cancelled" and of_attempt.get(attempt) != "Cancelled":
            yield f"attempt {attempt} is cancelled, and Kopo Kopo's is {of_attempt.get(attempt)}"


def _untrue(
    reversal: Document | None, posts: Sequence[Document], outcomes: Sequence[str | None], *, elsewhere: bool
) -> Iterator[str]:
    """What Kopo Kopo did and what we say of it are two things, though there is nothing more to come."""
    money_moved = elsewhere or "Transferred" in outcomes
    if elsewhere and posts:
        yield "it was sent although we knew that it was reversed elsewhere"
    if reversal is None:
        if posts:
            yield "Kopo Kopo accepted it, and we know nothing of it"
        return
    status = reversal["status"]
    if money_moved and status == "failed" and not reversal["conflict"]:
        yield "the money went back, and it is failed"
    if status == "reversed" and not money_moved and not reversal["conflict"]:
        yield f"it is reversed, and no money went back ({outcomes})"
    if status in ("initiating", "pending") and (not outcomes or outcomes[-1] is not None):
        yield f"it is still {status}, and Kopo Kopo has nothing more to decide ({outcomes})"
    if status == "unknown" and reversal["kopokopo_id"] and outcomes[-1:] != [None]:
        yield "it is still unknown, though there is an id to ask by"


def _state(reversal: Document) -> tuple[str, int, bool]:
    return reversal["status"], reversal["attempt"], reversal["conflict"]
