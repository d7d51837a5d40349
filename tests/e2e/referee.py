"""An independent referee of charges: from what the provider sent and what clients received.

It knows nothing of the daemon's own counts.  The simulator says tokens in words of five bytes
(`lang=even,exact=o200k_base`), so that bytes are tokens; its log names each request by its
x-request-id.  For each request it works out the least and the most that it may have cost; what a
client was told, the balances, and the journal, replayed here by rules of our own, must agree.
"""
import datetime
import json
import subprocess
import os

from tolld import BUILD, SLOW, micro

PIECE = 5  # bytes of a token


class Price:
    """In micro-credits per million tokens."""

    def __init__(self, prompt, completion, cached=None, request=0):
        self.prompt, self.completion, self.request = prompt, completion, request
        self.cached = prompt if cached is None else cached

    def cost(self, prompt, completion, cached=0):
        return self.request + -(-((prompt - cached) * self.prompt + cached * self.cached +
                                  completion * self.completion) // 1000000)

    def fields(self):
        return self.prompt, self.cached, self.completion, self.request


class Asked:
    """A request, however often it was sent: what its client knows of it."""

    def __init__(self, number, account, model, prices, prompt, choices=1):
        self.id = f"ask{number}"
        self.account, self.model, self.prompt, self.choices = account, model, prompt, choices
        self.prices = list(prices)  # those that may have been in force at its reserve
        self.received = 0           # bytes of its text, at most, in one reading
        self.told = None            # what it cost, as somebody was told
        self.refused = False        # and all who asked were told so
        self.may_be_void = False    # an operator voided holds meanwhile
        self.stream_id = self.message_id = None
        self.notes = []

    def hear(self, cost):
        """It cost so much; said to whoever asks, always the same."""
        cost = micro(cost)
        assert self.told in (None, cost), f"{self}: told {self.told}, then {cost}"
        self.told = cost

    def __repr__(self):
        return (f"<{self.id} {self.account} {self.model} received {self.received} told {self.told} "
                f"{self.message_id} {self.notes}>")


def bounds(asked, calls, cached=0, said=0):
    """(least, most) that a request may have cost.  said: how many tokens its provider is off by."""
    assert len(calls) <= 1, f"{asked}: the provider was called {len(calls)} times"
    if not calls:
        assert asked.received == 0, asked
        return 0, 0
    call = calls[0]
    got = -(-asked.received // PIECE)
    sent = call["tokens_sent"] * asked.choices
    assert got <= sent, (asked, call)
    prompts = (asked.prompt, call["prompt"])
    least = min(p.cost(min(prompts), max(got + min(said, 0), 0), min(cached, *prompts))
                for p in asked.prices)
    most = max(p.cost(max(prompts), sent + max(said, 0)) for p in asked.prices)
    if got == 0 or asked.may_be_void:
        least = 0
    return least, most


class Replay:
    """The journal's records, by rules of our own."""

    def __init__(self, lines):
        self.balance, self.held, self.overdraft, self.charged = {}, {}, {}, {}
        self.prices, self.open, self.settled = {}, {}, {}
        self.lowered = {}  # account: when an operator last made less of it
        self.budget = {}   # (account, "day"): [(since, amount)]
        self.used = {}     # (account, window): what is charged and held under a budget
        for line in lines:
            self.play(json.loads(line))

    def play(self, r):
        kind, a = r["type"], r.get("account")
        if kind in ("account", "first_sight"):
            assert a not in self.balance, r
            self.balance[a] = micro(r.get("amount", 0))
            self.held[a] = self.charged[a] = 0
            self.overdraft[a] = micro(r["overdraft"])
            self.set_budgets(a, r)
        elif kind in ("topup", "adjust"):
            self.balance[a] += micro(r["amount"])
            self.lower(a, r, micro(r["amount"]))
        elif kind == "account_set":
            self.set_budgets(a, r)
            if "overdraft" in r:
                self.lower(a, r, micro(r["overdraft"]) - self.overdraft[a])
                self.overdraft[a] = micro(r["overdraft"])
        elif kind == "price":
            self.prices[r["price"]] = Price(*(micro(r["price_" + k]) for k in
                                              ("prompt", "completion", "cached", "request")))
        elif kind == "reserve":
            assert r["slot"] not in self.open, r
            self.open[r["slot"]] = dict(r, total=micro(r["amount"]))
            self.hold(a, r, micro(r["amount"]))
            self.claim(self.open[r["slot"]], r, micro(r["amount"]))
        elif kind == "extend":
            h = self.open[r["slot"]]
            h["total"] += micro(r["amount"])
            assert h["total"] == micro(r["total"]), (h, r)
            self.hold(h["account"], r, micro(r["amount"]))
            self.claim(h, r, micro(r["amount"]))
        elif kind == "mark":
            assert r["slot"] in self.open, r
        elif kind == "settle" or (kind == "void" and r["slot"] in self.open):
            self.close(r)

    def lower(self, account, r, by):
        if by < 0:
            self.lowered[account] = datetime.datetime.fromisoformat(r["time"])

    def hold(self, account, r, amount):
        self.held[account] += amount
        at = self.lowered.get(account)
        left = self.balance[account] - self.held[account] + self.overdraft[account]
        # Just after an operator made less of it a grant from before may come.
        assert left >= 0 or (at is not None and datetime.datetime.fromisoformat(r["time"]) - at <
                             datetime.timedelta(seconds=15)), (left, r)

    def set_budgets(self, account, r):
        for per in ("day", "month"):
            if "budget_" + per in r:
                self.budget.setdefault((account, per), []).append(
                    (datetime.datetime.fromisoformat(r["time"]), micro(r["budget_" + per])))

    def claim(self, h, r, amount):
        """A hold counts against the budgets that there were at its reserve, in its window."""
        now, began = (datetime.datetime.fromisoformat(x["time"]) for x in (r, h))
        for per, window in (("day", h["time"][:10]), ("month", h["time"][:7])):
            known = self.budget.get((h["account"], per), [])
            if not [c for t, c in known if t <= began][-1:] > [0]:
                continue
            at = h["account"], window
            self.used[at] = self.used.get(at, 0) + amount
            h.setdefault("windows", set()).add(at)
            # Just after a change a grant from before may come.
            caps = [c for (t, c), after in zip(known, known[1:] + [None]) if t <= now and (
                after is None or now - after[0] < datetime.timedelta(seconds=15))]
            assert 0 in caps or self.used[at] <= max(caps), (at, self.used[at], caps, r)

    def close(self, r):
        h = self.open.pop(r["slot"])
        a, charge = h["account"], micro(r.get("amount", 0))
        assert r["account"] == a and charge <= h["total"], (h, r)
        if r["type"] == "void":
            assert charge == 0, r
        else:
            cost = self.prices[h["price"]].cost(r["prompt"] + r.get("cached", 0), r["completion"],
                                                r.get("cached", 0))
            assert charge + micro(r.get("uncollected", 0)) == cost, (h, r, cost)
        assert h["message_id"] not in self.settled, r
        self.settled[h["message_id"]] = (h, charge, r)
        for at in h.get("windows", ()):
            self.used[at] -= h["total"] - charge
        self.held[a] -= h["total"]
        self.balance[a] -= charge
        self.charged[a] += charge


def exported(t):
    p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", t.socket, "export", "--format",
                        "jsonl"], capture_output=True, text=True, timeout=60 * SLOW)
    assert p.returncode == 0, p.stderr
    return p.stdout.splitlines()


def judge(t, asked, cached=(), said=(), now=None, before=()):
    """At rest: every request, every account.  Models in `cached` have cached tokens: {name: n}; what
    is said of those in `said` is off by so many tokens.  before: {account: charged} beside them."""
    cached, said = dict(cached), dict(said)
    now = now or datetime.datetime.now(datetime.timezone.utc)
    replay = Replay(exported(t))
    assert not replay.open, replay.open
    calls = {}
    for x in t.sim.requests():
        calls.setdefault(x["id"], []).append(x)
    least, most, faults = dict(before), dict(before), []
    for x in asked:
        try:
            low, high = bounds(x, calls.get(x.id, []), cached.get(x.model, 0),
                               said.get(x.model, 0))
            if x.refused:
                assert not calls.get(x.id), (x, calls[x.id])
            if x.told is not None:
                assert low <= x.told <= high, (x, low, high, calls.get(x.id))
                low = high = x.told
            if x.message_id is not None:
                hold, charge, _ = replay.settled[x.message_id]
                assert low <= charge <= high, (x, low, high, replay.settled[x.message_id])
                price = replay.prices[hold["price"]].fields()
                assert price in [p.fields() for p in x.prices], (x, price)
                low = high = charge
        except (AssertionError, KeyError) as e:
            faults.append(f"{e!r}\n  journaled: {replay.settled.get(x.message_id)}\n  prices: "
                          f"{[p.fields() for p in x.prices]}")
            continue
        least[x.account] = least.get(x.account, 0) + low
        most[x.account] = most.get(x.account, 0) + high
    for a, charged in replay.charged.items():
        shown = t.show(a)
        if not least.get(a, 0) <= charged <= most.get(a, 0):
            faults.append(f"{a}: charged {charged}, {least.get(a, 0)} to {most.get(a, 0)}")
        if (micro(shown["balance"]), micro(shown["held"])) != (replay.balance[a], 0):
            faults.append(f"{a}: {shown} and {replay.balance[a]}")
        if micro(shown["available"]) != replay.balance[a] + replay.overdraft[a]:
            faults.append(f"{a}: available {shown}")
        # What is said to be spent of a budget was spent of it, and nothing is claimed by nobody.
        for per, length in (("day", 10), ("month", 7)):
            if shown.get("budget_" + per):
                window = a, now.isoformat()[:length]
                if micro(shown["budget_" + per]["spent"]) != replay.used.get(window, 0):
                    faults.append(f"{a}: {shown} and {replay.used.get(window, 0)} in {window}")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:12])
    return replay
