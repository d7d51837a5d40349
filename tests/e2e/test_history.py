"""Goal:   what was said is kept: sessions and messages as they were, for their own account only, by
        pages, across every kind of death; forgotten when it is told to, and by age and number; and
        a session's past goes in front of a new message, counted and charged as it was previewed.
Method: real streams whose provider gives the request back, so that what it got can be compared byte
        for byte; kills, compactions, a lost state.mdb, a backup; a clock that is put forward; every
        page of every size; hostile parameters.
"""
import errno
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest
import urllib.parse

from clock import Clock
from disk import Disk
from tolld import BUILD, SLOW, Case, Tolld, cost, end_of, micro, text_of, wait_for

MODELS = {
    "short": "sim:tokens=5",
    "echo": ("sim:echo=1,tokens=90000,usage=no", "max_completion = 90000"),
    "slow": "sim:tokens=400,rate=100,lang=even",
    "endless": "sim:tokens=40000,rate=100,lang=even",
    "dear": ("sim:tokens=400,lang=even,usage=no", ""),
    "fails": "sim:fault=cut@12,tokens=40,lang=even,usage=no",
    "dead": "sim:status=500",
    "none": ("sim:echo=1,tokens=90000,usage=no", "history_tokens = 0 max_completion = 90000"),
    "tight": ("sim:echo=1,tokens=90000,usage=no",
              "history_tokens = 60 max_completion = 90000"),
    "narrow": ("sim:echo=1,tokens=200,usage=no", "context = 120 max_completion = 20"),
    "long": ("sim:tokens=60000,lang=ru", "max_completion = 90000"),
}
OPTIONS = {"workers": 2, "models": MODELS, "config": "max_body = 8388608", "ledger": "slice_tokens = 50 reconnect_grace = 1"}


class Client:
    """What a person does, by one key."""

    def __init__(self, t, key):
        self.t, self.key = t, key

    def get(self, session=None, **query):
        if session is not None:
            query["session_id"] = session
        path = "/chat/history" + ("?" + urllib.parse.urlencode(query) if query else "")
        return self.t.request("GET", path, key=self.key)

    def page(self, session=None, **query):
        status, _, body = self.get(session, **query)
        if status != 200:
            raise AssertionError(f"{status} {body}")
        return body

    def messages(self, session, limit=None):
        """All of them, page by page."""
        out, query = [], {"limit": limit} if limit else {}
        while True:
            page = self.page(session, **query)
            out = page["messages"] + out
            if page["next"] is None:
                return out
            query["before"] = page["next"]

    def sessions(self, limit=None):
        out, query = [], {"limit": limit} if limit else {}
        while True:
            page = self.page(**query)
            out += page["sessions"]
            if page["next"] is None:
                return out
            query["before"] = page["next"]

    def say(self, text, model="short", **fields):
        """A turn to its end: what send said, and the events."""
        sent = self.t.send(self.key, text, model, **fields)
        s = self.t.open(sent["stream_id"])
        events = list(s.typed())
        s.close()
        return sent, events

    def forget(self, session):
        return self.t.request("DELETE", f"/chat/history?session_id={session}", key=self.key)

    def preview(self, text, model="echo", **fields):
        status, _, body = self.t.request(
            "POST", "/chat/preview", dict(fields, model=model, message=text), self.key)
        if status != 200:
            raise AssertionError(f"{status} {body}")
        return body


def count(text):
    """Tokens of a text, by tollctl."""
    p = subprocess.run([os.path.join(BUILD, "tollctl"), "--json", "tokens", "--tokenizer",
                        "o200k_base"], input=text.encode(), capture_output=True, check=True)
    return json.loads(p.stdout)["tokens"]


def prompt_of(messages):
    """What the contract says that a list of messages is, in tokens."""
    return 3 + sum(3 + count(m["role"]) + count(m["content"]) for m in messages)


def asked(events):
    """The messages that the provider got: it gives the request back."""
    return json.loads(end_of(events)[1]["full_text"])["messages"]


class Kept(Case):
    OPTIONS = OPTIONS

    def client(self, credit="1000"):
        Kept.accounts = getattr(Kept, "accounts", 0) + 1
        name = f"u{Kept.accounts}"
        return Client(self.t, self.t.account(name, credit))

    def test_a_turn_as_it_was(self):
        c = self.client()
        sent, events = c.say("  \n\tWhat is \"this\" \\ и это 😀?\nsecond line", max_tokens=4)
        _, done = end_of(events)
        session = sent["session_id"]
        listed = c.page()
        self.assertIsNone(listed["next"])
        self.assertEqual(len(listed["sessions"]), 1)
        one = listed["sessions"][0]
        self.assertEqual(one["id"], session)
        self.assertEqual(one["title"], 'What is "this" \\ и это 😀?')
        self.assertEqual(one["messages"], 2)
        self.assertLessEqual(one["created_at"], one["updated_at"])
        page = c.page(session)
        self.assertEqual((page["session_id"], page["title"]), (session, one["title"]))
        question, answer = page["messages"]
        self.assertEqual(question["role"], "user")
        self.assertEqual(question["content"], "  \n\tWhat is \"this\" \\ и это 😀?\nsecond line")
        self.assertEqual(question["status"], "complete")
        self.assertEqual(question["id"], sent["message_id"] + "-q")
        self.assertEqual(answer["id"], sent["message_id"])
        self.assertEqual(answer["role"], "assistant")
        self.assertEqual(answer["content"], done["full_text"])
        self.assertEqual(answer["status"], "complete")
        self.assertEqual(answer["finish_reason"], "length")
        self.assertEqual(answer["model"], "short")
        self.assertEqual(answer["tokens"], done["usage"]["completion_tokens"])
        self.assertEqual(answer["prompt_tokens"], done["usage"]["prompt_tokens"])
        self.assertEqual(micro(answer["cost"]), micro(done["cost"]))
        self.assertNotIn("stream_id", answer)
        self.assertLessEqual(question["created_at"], answer["ended_at"])

    def test_titles(self):
        """The first line, of whole characters, and not longer than it should be."""
        c = self.client()
        for text, title in (
                ("x" * 80, "x" * 80), ("x" * 81, "x" * 80 + "…"), ("я" * 81, "я" * 80 + "…"),
                ("😀" * 200, "😀" * 80 + "…"), ("x" * 80 + "\nmore", "x" * 80),
                ("\n \r\n", ""), ("a\tb\rc", "a b"), ("\ud800!", "\ufffd!"), ("\u0000z", "z")):
            sent, _ = c.say(text)
            self.assertEqual(c.page()["sessions"][0]["title"], title, ascii(text))
            self.assertEqual(c.page(sent["session_id"])["title"], title)
        status, _, body = self.t.request("POST", "/chat/send", {"model": "short", "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "part one"},
                                         {"type": "text", "text": "two"}]}]}, c.key)
        self.assertEqual(status, 200)
        list(self.t.open(body["stream_id"]).typed())
        self.assertEqual(c.page()["sessions"][0]["title"], "part one")
        question = c.page(body["session_id"])["messages"][0]
        self.assertEqual((question["role"], question["content"]), ("user", "part one\ntwo"))

    def test_pages(self):
        """Whatever the size of a page, each item is there once, and in its order."""
        c = self.client()
        ids, said = [], []
        for i in range(9):
            sent, _ = c.say(f"session {i}")
            ids.append(sent["session_id"])
        for i in range(9):
            sent, _ = c.say(f"turn {i}", session_id=ids[4])
            said.append(sent["message_id"])
        # A session that is used is the latest again.
        order = [ids[4]] + [x for x in reversed(ids) if x != ids[4]]
        for limit in (1, 2, 3, 8, 9, 10, 100):
            self.assertEqual([s["id"] for s in c.sessions(limit)], order, limit)
        self.assertEqual([s["messages"] for s in c.sessions()][:2], [20, 2])
        whole = c.messages(ids[4])
        self.assertEqual(len(whole), 20)
        self.assertEqual([m["role"] for m in whole], ["user", "assistant"] * 10)
        self.assertEqual([m["id"] for m in whole[3::2]], said)
        for limit in (1, 2, 3, 7, 19, 20, 21, 200):
            self.assertEqual(c.messages(ids[4], limit), whole, limit)
        first = c.page(ids[4], limit=3)
        self.assertEqual(first["messages"], whole[-3:])
        # What comes meanwhile is on no later page.
        c.say("late", session_id=ids[4])
        self.assertEqual(c.page(ids[4], limit=17, before=first["next"])["messages"], whole[:17])

    def test_each_account_has_its_own(self):
        a, b = self.client(), self.client()
        sent, _ = a.say("mine alone")
        session = sent["session_id"]
        unknown = session[:-2] + ("AA" if session[-2:] != "AA" else "BA")
        for method in ("GET", "DELETE"):
            answers = []
            for s in (session, unknown):
                status, headers, body = self.t.request(
                    method, f"/chat/history?session_id={s}", key=b.key)
                self.assertEqual(status, 404)
                answers.append((body, sorted(k for k in headers.keys())))
            self.assertEqual(answers[0], answers[1])
        self.assertEqual(b.sessions(), [])
        # Its id is no way in either: that is another session, of another account.
        _, events = b.say("and what did he say?", "echo", session_id=session)
        self.assertEqual(asked(events), [{"role": "user", "content": "and what did he say?"}])
        self.assertEqual([m["content"] for m in b.messages(session)][0], "and what did he say?")
        self.assertEqual([m["content"] for m in a.messages(session)][0], "mine alone")
        self.assertEqual(b.forget(session)[0], 200)
        self.assertEqual(len(a.messages(session)), 2)
        for key in (None, "tolld_nobody"):
            self.assertEqual(self.t.request("GET", "/chat/history", key=key)[0], 401)
            self.assertEqual(self.t.request(
                "DELETE", f"/chat/history?session_id={session}", key=key)[0], 401)

    def test_ends(self):
        """Each way to end has its status; what was seen of the answer is there."""
        c = self.client()
        sent, events = c.say("hello", "fails")
        question, answer = c.messages(sent["session_id"])
        self.assertEqual((answer["status"], answer["finish_reason"]), ("failed", "error"))
        self.assertEqual(answer["content"], text_of(events))
        self.assertEqual(answer["tokens"], 12)
        self.assertEqual(micro(answer["cost"]), cost(answer["prompt_tokens"], 12))
        sent, _ = c.say("hello", "dead")
        _, answer = c.messages(sent["session_id"])
        self.assertEqual((answer["status"], answer["content"], micro(answer["cost"])),
                         ("failed", "", 0))
        sent = self.t.send(c.key, "hello", "endless")
        s = self.t.open(sent["stream_id"])
        it = s.typed()
        for _ in range(30):
            next(it)
        _, answer = c.messages(sent["session_id"])
        self.assertEqual((answer["status"], answer["stream_id"]),
                         ("streaming", sent["stream_id"]))
        self.assertNotIn("ended_at", answer)
        status, _, body = self.t.request("DELETE", f"/stream?id={sent['stream_id']}")
        self.assertEqual(status, 200)
        end = list(it)[-1]
        _, answer = c.messages(sent["session_id"])
        self.assertEqual((answer["status"], answer["finish_reason"]), ("cancelled", "cancelled"))
        self.assertEqual(answer["content"], end["data"]["full_text"])
        self.assertEqual(micro(answer["cost"]), micro(body["cost"]))
        # Not opened yet: it can be, by what the history says.
        sent = self.t.send(c.key, "wait", "short")
        _, answer = c.messages(sent["session_id"])
        self.assertEqual(answer["status"], "streaming")
        self.assertEqual(end_of(list(self.t.open(answer["stream_id"]).typed()))[0], "done")
        self.assertEqual(c.messages(sent["session_id"])[1]["status"], "complete")

    def test_credit_cut(self):
        name = "poor"
        key = self.t.account(name, "0.00006", "0")
        c = Client(self.t, key)
        sent, events = c.say("hello there", "dear")
        self.assertEqual(end_of(events)[1]["finish_reason"], "credit")
        _, answer = c.messages(sent["session_id"])
        self.assertEqual((answer["status"], answer["finish_reason"]), ("cut", "credit"))
        self.assertEqual(answer["content"], text_of(events))
        self.assertEqual(micro(answer["cost"]), micro(end_of(events)[1]["cost"]))

    def test_forgetting(self):
        c = self.client()
        sent, _ = c.say("forget me")
        kept, _ = c.say("keep me")
        session = sent["session_id"]
        for i in range(5):
            c.say(f"and this {i}", session_id=session)
        status, _, body = c.forget(session)
        self.assertEqual((status, body), (200, {"ok": True}))
        self.assertEqual(c.get(session)[0], 404)
        self.assertEqual(c.forget(session)[0], 404)
        self.assertEqual([s["id"] for s in c.sessions()], [kept["session_id"]])
        # Its name may be used again, and brings nothing back.
        preview = c.preview("again", session_id=session)
        self.assertEqual(preview["prompt_tokens"],
                         prompt_of([{"role": "user", "content": "again"}]))
        _, events = c.say("again", "echo", session_id=session)
        self.assertEqual(asked(events), [{"role": "user", "content": "again"}])
        self.assertEqual([m["content"] for m in c.messages(session)][0], "again")
        self.assertEqual(len(c.messages(session)), 2)
        self.assertEqual(c.sessions()[0]["messages"], 2)
        self.assertEqual(c.sessions()[0]["title"], "again")
        self.assertIn("forget", [r["type"] for r in self.t.ctl("journal")])
        self.invariants()

    def test_forgetting_what_runs(self):
        """The stream goes on for who watches, and is charged; nothing of it is kept."""
        c = self.client()
        sent = self.t.send(c.key, "hello", "slow")
        s = self.t.open(sent["stream_id"])
        it = s.typed()
        for _ in range(20):
            next(it)
        self.assertEqual(c.forget(sent["session_id"])[0], 200)
        # Another turn of that name, beside it.
        again, _ = c.say("again", session_id=sent["session_id"])
        events = list(it)
        self.assertEqual(end_of(events)[0], "done")
        self.assertEqual(end_of(events)[1]["usage"]["completion_tokens"], 400)
        messages = c.messages(sent["session_id"])
        self.assertEqual([m["content"] for m in messages][0], "again")
        self.assertEqual(len(messages), 2)
        self.invariants()

    def test_parameters(self):
        c = self.client()
        sent, _ = c.say("hello")
        session = sent["session_id"]
        good = urllib.parse.quote(session)
        for query, param in (
                ("limit=0", "limit"), ("limit=101", "limit"), ("limit=-1", "limit"),
                ("limit=1.5", "limit"), ("limit=", "limit"), ("limit=%00", "limit"),
                ("limit=1%zz", "limit"), ("limit=99999999999999999999999", "limit"),
                ("limit=0x10", "limit"), ("limit=%2b5", "limit"), ("before=", "before"),
                ("before=0", "before"), ("before=x", "before"), ("before=-3", "before"),
                ("before=18446744073709551616", "before"), ("before=%00", "before"),
                ("limit=" + "9" * 4000, "limit"),
                (f"session_id={good}&limit=201", "limit"),
                (f"session_id={good}&before=1e3", "before")):
            status, _, body = self.t.request("GET", "/chat/history?" + query, key=c.key)
            self.assertEqual(status, 400, query)
            self.assertEqual(body["error"]["param"], param, query)
        for bad in ("", "x", session + "A", session[:-1], "%00", session[:-1] + "%", "../" + session,
                    "A" * 4000, session[:-1] + "*", "%f0%9f%98%80"):
            for method in ("GET", "DELETE"):
                status, _, body = self.t.request(
                    method, f"/chat/history?session_id={bad}", key=c.key)
                self.assertEqual((status, body["error"]["param"]), (404, "session_id"), bad)
        status, _, body = self.t.request("DELETE", "/chat/history", key=c.key)
        self.assertEqual((status, body["error"]["param"]), (400, "session_id"))
        self.assertEqual(self.t.request("POST", "/chat/history", {}, key=c.key)[0], 405)
        self.assertEqual(self.t.request("HEAD", "/chat/history", key=c.key)[0], 200)
        # An end of the list is no mistake.
        for query in ("before=1", f"session_id={good}&before=1"):
            body = self.t.request("GET", "/chat/history?" + query, key=c.key)[2]
            self.assertEqual(body.get("sessions", body.get("messages")), [])
            self.assertIsNone(body["next"])
        self.assertEqual(len(c.page(session, before=2**64 - 1)["messages"]), 2)

    def test_the_past_goes_in_front(self):
        c = self.client()
        sent, first = c.say("What is \"this\"?\n\tи это 😀", "short")
        session = sent["session_id"]
        past = [{"role": "user", "content": "What is \"this\"?\n\tи это 😀"},
                {"role": "assistant", "content": text_of(first)}]
        for n in range(3):
            ask = {"role": "user", "content": f"number {n} \u2028 \u0001"}
            expected = past + [ask]
            preview = c.preview(ask["content"], session_id=session)
            self.assertEqual(preview["prompt_tokens"], prompt_of(expected))
            sent, events = c.say(ask["content"], "echo", session_id=session)
            self.assertEqual(asked(events), expected)
            self.assertEqual(events[0]["data"]["prompt_tokens"], preview["prompt_tokens"])
            done = end_of(events)[1]
            self.assertEqual(done["usage"]["prompt_tokens"], preview["prompt_tokens"])
            self.assertEqual(micro(done["cost"]), cost(preview["prompt_tokens"],
                                                       done["usage"]["completion_tokens"]))
            past = expected + [{"role": "assistant", "content": done["full_text"]}]
        # Its own list is sent as it came, and is kept.
        own = [{"role": "system", "content": "s"}, {"role": "user", "content": "own"}]
        status, _, body = self.t.request(
            "POST", "/chat/send", {"model": "echo", "messages": own, "session_id": session}, c.key)
        self.assertEqual(status, 200)
        events = list(self.t.open(body["stream_id"]).typed())
        self.assertEqual(asked(events), own)
        past += [own[1], {"role": "assistant", "content": text_of(events)}]
        self.assertEqual(asked(c.say("last", "echo", session_id=session)[1])[:-1], past)
        self.assertEqual(asked(c.say("last", "none", session_id=session)[1]),
                         [{"role": "user", "content": "last"}])
        self.invariants()

    def test_unknown_session(self):
        """An id that a client brings itself is a session from then on, as ever."""
        c = self.client()
        session = "AAAAAAAAAAAAAAAAAAAAAQ"
        sent, events = c.say("hello", "echo", session_id=session)
        self.assertEqual(sent["session_id"], session)
        self.assertEqual(asked(events), [{"role": "user", "content": "hello"}])
        self.assertEqual(c.sessions()[0]["id"], session)

    def test_budget(self):
        """Whole turns, the newest first, as many as fit; none that failed."""
        c = self.client()
        session, turns = None, []
        for n in range(6):
            sent, events = c.say(f"question {n}", "short",
                                 **({"session_id": session} if session else {}))
            session = sent["session_id"]
            turns.append([{"role": "user", "content": f"question {n}"},
                          {"role": "assistant", "content": text_of(events)}])
            c.say("this fails", "dead", session_id=session)
        ask = [{"role": "user", "content": "and now?"}]
        each = prompt_of(turns[0]) - 3
        fit = 60 // each
        self.assertTrue(0 < fit < 6)
        expected = sum(turns[-fit:], []) + ask
        self.assertEqual(c.preview("and now?", "tight", session_id=session)["prompt_tokens"],
                         prompt_of(expected))
        sent, events = c.say("and now?", "tight", session_id=session)
        self.assertEqual(asked(events), expected)
        # What was answered just now is too long for 60 tokens: nothing behind it is taken.
        self.assertEqual(asked(c.say("more", "tight", session_id=session)[1]),
                         [{"role": "user", "content": "more"}])

    def test_a_narrow_context(self):
        """The past gives way to the answer: what could be asked without it can be asked with it."""
        c = self.client()
        session = None
        for n in range(12):
            sent, _ = c.say(f"question {n}", **({"session_id": session} if session else {}))
            session = sent["session_id"]
        p = c.preview("and now?", "narrow", session_id=session)
        self.assertGreater(p["prompt_tokens"], 60)
        self.assertLessEqual(p["prompt_tokens"], 100)
        self.assertEqual(p["max_completion_tokens"], 20)
        text = "word " * 100
        p = c.preview(text, "narrow", session_id=session)
        self.assertEqual(p["prompt_tokens"], prompt_of([{"role": "user", "content": text}]))
        c.say(text, "narrow", session_id=session)

    def test_what_is_no_turn(self):
        """Empty texts, and what a client's program said in its own list, are left out."""
        c = self.client()
        session = c.say("hello", "short")[0]["session_id"]
        for messages in ([{"role": "user", "content": ""}], [{"role": "user", "content": None}],
                         [{"role": "user", "content": " \n\t"}], [{"role": "user", "content": []}],
                         [{"role": "tool", "tool_call_id": "1", "content": "42"}],
                         [{"role": "system", "content": "be brief"}]):
            status, _, body = self.t.request("POST", "/chat/send", {
                "model": "short", "messages": messages, "session_id": session}, c.key)
            self.assertEqual(status, 200, messages)
            self.assertEqual(end_of(list(self.t.open(body["stream_id"]).typed()))[0], "done")
        self.assertEqual([m["content"] for m in asked(c.say("and?", "echo", session_id=session)[1])
                          if m["role"] == "user"], ["hello", "and?"])
        roles = [m["role"] for m in c.messages(session)[::2]]
        self.assertEqual(roles, ["user"] * 5 + ["tool", "system", "user"])

    def test_escapes(self):
        """However a client wrote it, it is the text that counts."""
        c = self.client()
        text = "слово " * 300
        for ascii_only in (True, False):
            body = json.dumps({"model": "short", "message": text}, ensure_ascii=ascii_only)
            status, _, sent = self.t.request("POST", "/chat/send", body.encode(), c.key,
                                             {"Content-Type": "application/json"})
            self.assertEqual(status, 200)
            answer = text_of(list(self.t.open(sent["stream_id"]).typed()))
            expected = [{"role": "user", "content": text},
                        {"role": "assistant", "content": answer},
                        {"role": "user", "content": "on"}]
            p = c.preview("on", session_id=sent["session_id"])
            self.assertEqual(p["prompt_tokens"], prompt_of(expected))
            _, events = c.say("on", "echo", session_id=sent["session_id"])
            self.assertEqual(asked(events), expected)

    def test_v1_keeps_its_own(self):
        c = self.client()
        status, _, _ = self.t.request("POST", "/v1/chat/completions", {
            "model": "short", "messages": [{"role": "user", "content": "hi"}]}, c.key)
        self.assertEqual(status, 200)
        self.assertEqual(c.sessions(), [])

    def test_sent_twice(self):
        c = self.client()
        for _ in range(2):
            status, _, body = self.t.request(
                "POST", "/chat/send", {"model": "short", "message": "once"}, c.key,
                {"Idempotency-Key": "k"})
            self.assertEqual(status, 200)
        list(self.t.open(body["stream_id"]).typed())
        self.assertEqual([s["messages"] for s in c.sessions()], [2])

    def test_huge_texts(self):
        """A page ends with the text that is too much; what is sent of it stays within the budget."""
        c = self.client()
        text = "слово 😀 " * 50000  # 850 kB
        sent, events = c.say(text[:len(text) // 2], "long", max_tokens=60000)
        session = sent["session_id"]
        c.say(text[len(text) // 2:], "short", session_id=session)
        big, _ = c.say("small", session_id=session)
        page = c.page(session)
        self.assertIsNotNone(page["next"])
        whole = c.messages(session)
        self.assertEqual(len(whole), 6)
        self.assertEqual(whole[0]["content"] + whole[2]["content"], text)
        self.assertEqual(whole[1]["content"], end_of(events)[1]["full_text"])
        self.assertGreater(len(whole[1]["content"]), 100000)
        self.assertEqual(c.messages(session, 1), whole)
        p = c.preview("hello", session_id=session)
        self.assertEqual(p["prompt_tokens"], prompt_of(whole[4:] + [
            {"role": "user", "content": "hello"}]))
        self.assertEqual(len(c.sessions()), 1)

    def test_no_text_in_the_log(self):
        c = self.client()
        sent, events = c.say("a secret xyzzy question", "echo")
        c.say("another xyzzy", session_id=sent["session_id"])
        c.page(sent["session_id"])
        c.forget(sent["session_id"])
        self.assertNotIn("xyzzy", self.t.log())


class Dialects(unittest.TestCase):
    def test_the_past_in_each(self):
        """A provider of any dialect is told a session's past in its own words."""
        t = Tolld(workers=2, models={"short": "sim:tokens=5"})
        self.addCleanup(t.close)
        text = ""
        for dialect, base in (("anthropic", ""), ("ollama", ""), ("openai", "/v1")):
            text += f"""
provider "{dialect}" {{
    dialect = "{dialect}" retries = 0
    base_url = "http://127.0.0.1:{t.sim.port}{base}"
}}
model "{dialect}" {{
    provider = "{dialect}" upstream = "sim:echo=1,tokens=90000" tokenizer = "o200k_base"
    price_prompt = 1 price_completion = 1 max_completion = 90000
}}
"""
        t.extra = (text,) + t.extra[1:]
        t.write_config()
        t.start()
        c = Client(t, t.account("alice", "100"))
        for dialect in ("anthropic", "ollama", "openai"):
            sent, events = c.say("What is \"this\"?\nи это 😀", "short")
            expected = [{"role": "user", "content": "What is \"this\"?\nи это 😀"},
                        {"role": "assistant", "content": text_of(events)},
                        {"role": "user", "content": "and that?"}]
            p = c.preview("and that?", dialect, session_id=sent["session_id"])
            self.assertEqual(p["prompt_tokens"], prompt_of(expected))
            _, events = c.say("and that?", dialect, session_id=sent["session_id"])
            self.assertEqual(end_of(events)[0], "done", dialect)
            got = [(m["role"], m["content"] if isinstance(m["content"], str) else
                    "".join(part["text"] for part in m["content"])) for m in asked(events)]
            self.assertEqual(got, [(m["role"], m["content"]) for m in expected], dialect)
        t.audit()
        self.assertEqual(t.stop(), 0, t.log())


class Deaths(unittest.TestCase):
    """What was acknowledged, and what was saved of an answer, is there after any death."""

    def setUp(self):
        self.t = Tolld(**OPTIONS)
        self.addCleanup(self.t.close)
        self.clock = Clock(BUILD, self.t.folder)
        self.t.env.update(self.clock.env)
        self.t.start()
        self.c = Client(self.t, self.t.account("alice", "100"))

    def settled(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 15, "holds to be settled")
        self.t.audit()

    def running(self, tokens=120):
        """A stream under way that nobody reads any more: (sent, tokens seen, text seen)."""
        sent = self.t.send(self.c.key, "hello", "endless")
        s = self.t.open(sent["stream_id"])
        seen = []
        for e in s.typed():
            if e["type"] == "token":
                seen.append(e["data"]["token"])
            if len(seen) >= tokens:
                break
        self.stream = s
        return sent, "".join(seen)

    def look(self, sent, seen):
        """The saved text is what was seen or its beginning, less than a slice of it missing; the
        cost is the charge."""
        self.settled()
        _, answer = self.c.messages(sent["session_id"])
        self.assertEqual(answer["status"], "failed")
        self.assertGreaterEqual(len(answer["content"]), len(seen) - 5 * 50)
        n = min(len(seen), len(answer["content"]))
        self.assertEqual(answer["content"][:n], seen[:n])
        self.assertGreater(answer["tokens"], 0)
        self.assertEqual(micro(answer["cost"]), cost(answer["prompt_tokens"], answer["tokens"]))
        self.assertEqual(micro(self.t.show("alice")["balance"]),
                         100000000 - sum(micro(m["cost"]) for s in self.c.sessions()
                                         for m in self.c.messages(s["id"]) if "cost" in m))
        return answer

    def test_a_worker(self):
        import base64
        sent, seen = self.running()
        slot = base64.urlsafe_b64decode(sent["stream_id"] + "====")[16]
        os.kill(self.t.children()[f"tolld: worker {slot - 2}"], signal.SIGKILL)
        answer = self.look(sent, seen)
        # The past has what was said.
        expected = [{"role": "user", "content": "hello"},
                    {"role": "assistant", "content": answer["content"]},
                    {"role": "user", "content": "go on"}]
        _, events = self.c.say("go on", "echo", session_id=sent["session_id"])
        self.assertEqual(asked(events), expected)

    def test_all_at_once(self):
        done, events = self.c.say("before")
        sent, seen = self.running()
        self.t.kill_all()
        self.t.start()
        self.look(sent, seen)
        self.assertEqual(self.c.messages(done["session_id"])[1]["content"], text_of(events))

    def test_the_memory_lost(self):
        """As after a power cut: what is open ends at its last mark."""
        sent, seen = self.running()
        self.t.kill_all()
        os.unlink(os.path.join(self.t.folder, "run", "ledger.shm"))
        self.t.start()
        self.look(sent, seen)

    def test_a_deletion_acknowledged(self):
        sent, _ = self.c.say("forget me")
        other, _ = self.c.say("keep me")
        for n in range(40):
            self.c.say(f"more {n}", session_id=sent["session_id"])
        self.assertEqual(self.c.forget(sent["session_id"])[0], 200)
        self.t.kill_all()
        self.t.start()
        self.assertEqual([s["id"] for s in self.c.sessions()], [other["session_id"]])
        self.assertEqual(self.c.get(sent["session_id"])[0], 404)
        self.t.audit()

    def test_the_keeper_under_deletions(self):
        """Sessions come and go while the keeper is killed: each is there, or was acknowledged as
        forgotten."""
        gone, kept = set(), {}
        stop = threading.Event()
        errors = []

        def chat(n):
            c = Client(self.t, self.c.key)
            while not stop.is_set():
                try:
                    sent, events = c.say(f"by {n}")
                    c.say("more", session_id=sent["session_id"])
                    if len(gone) <= len(kept):
                        status = c.forget(sent["session_id"])[0]
                        if status == 200:
                            gone.add(sent["session_id"])
                    else:
                        kept[sent["session_id"]] = text_of(events)
                except (OSError, AssertionError, KeyError, ValueError) as e:
                    errors.append(e)

        threads = [threading.Thread(target=chat, args=(n,)) for n in range(4)]
        for th in threads:
            th.start()
        for n in range(5):
            wait_for(lambda: len(gone) > 3 * n and len(kept) > 3 * n, 30, "sessions to come and go")
            keeper = self.t.children()["tolld: keeper"]
            os.kill(keeper, signal.SIGKILL)
            wait_for(lambda: self.t.children().get("tolld: keeper", keeper) != keeper, 10,
                     "another keeper")
        stop.set()
        for th in threads:
            th.join(60 * SLOW)
        self.settled()
        there = {s["id"] for s in self.c.sessions(100)}
        self.assertEqual(gone & there, set())
        self.assertEqual(set(kept) - there, set())
        for session, text in kept.items():
            self.assertEqual(self.c.messages(session)[1]["content"], text)

    def test_what_becomes_of_the_journal(self):
        """A compaction, a lost state.mdb, and a backup that is put back change nothing of it."""
        sessions = {}
        for n in range(4):
            sent, _ = self.c.say(f"session {n}")
            self.c.say("more", "echo", session_id=sent["session_id"])
            sessions[sent["session_id"]] = self.c.messages(sent["session_id"])
        listed = self.c.sessions()

        def same():
            self.assertEqual(self.c.sessions(), listed)
            for session, messages in sessions.items():
                self.assertEqual(self.c.messages(session), messages)
            self.t.audit()

        same()
        self.clock.forward(2 * 86400)
        self.t.ctl("topup", "alice", "1")
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "--json",
                            "compact", "--keep", "1d"], capture_output=True, text=True,
                           env=dict(os.environ, **self.clock.env), timeout=60)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertGreater(json.loads(p.stdout)["removed"], 10)
        same()
        state = os.path.join(self.t.folder, "state")
        self.t.kill_all()
        for name in ("state.mdb", "state.mdb-lock"):
            os.unlink(os.path.join(state, name))
        self.t.start()
        same()
        backup = os.path.join(self.t.folder, "backup")
        self.t.ctl("backup", backup)
        # What is said after it is not in it.
        late, _ = self.c.say("too late", session_id=listed[0]["id"])
        self.c.forget(listed[1]["id"])
        self.assertEqual(self.t.stop(), 0)
        shutil.rmtree(state)
        shutil.copytree(backup, state)
        self.t.start()
        same()
        # And it goes on from there.
        sent, events = self.c.say("go on", "echo", session_id=listed[0]["id"])
        self.assertEqual([m["content"] for m in asked(events)][:-1],
                         [m["content"] for m in sessions[listed[0]["id"]]])


class FullDisk(unittest.TestCase):
    """Nothing is told that is not kept, and nothing half is kept."""

    def test_full(self):
        folder = tempfile.mkdtemp(prefix="tolld-disk-",
                                  dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.addCleanup(shutil.rmtree, folder, True)
        disk = Disk(BUILD, folder, os.path.join(folder, "state"))
        t = Tolld(folder=folder, env=disk.env, **OPTIONS)
        self.addCleanup(t.close)
        t.start()
        c = Client(t, t.account("alice", "100"))
        kept, gone = c.say("keep me")[0], c.say("forget me")[0]
        for n in range(30):
            c.say(f"more {n}", session_id=gone["session_id"])
        before = [(s["id"], c.messages(s["id"])) for s in c.sessions()]
        for kind in ("write", "sync"):
            disk.fail(kind, errno.ENOSPC)
            status, headers, body = c.forget(gone["session_id"])
            self.assertEqual((status, body["error"]["code"]), (503, "overloaded"))
            self.assertIn("Retry-After", headers)
            status, _, body = t.request(
                "POST", "/chat/send", {"model": "short", "message": "lost?"}, c.key)
            self.assertEqual(status, 503, body)
            # What there is can be read.
            there = [s["id"] for s in c.sessions()]
            self.assertIn(kept["session_id"], there)
            disk.works()
            wait_for(t.ready, 20, "the daemon to be ready again")
            t.audit()
            # It was told that it will be forgotten, when it can be: it was in the ring. A question
            # that was refused in time is nowhere, one that was in the ring was never opened.
            wait_for(lambda: c.get(gone["session_id"])[0] == 404, 10, "it to be forgotten")
            self.assertEqual(c.messages(kept["session_id"]), dict(before)[kept["session_id"]])
            gone, _ = c.say("forget me, too")
        self.assertEqual(t.stop(), 0, t.log())
        t.start()
        self.assertEqual(c.messages(kept["session_id"]), dict(before)[kept["session_id"]])
        t.audit()


class Long(unittest.TestCase):
    """A session of very many messages costs no more memory than one of few."""

    TURNS = int(os.environ.get("TOLLD_TURNS", "400"))

    def peak(self, t):
        """The most that a worker has had in memory, in bytes."""
        out = 0
        for name, pid in t.children().items():
            if "worker" in name:
                with open(f"/proc/{pid}/status") as f:
                    out = max(out, int(f.read().split("VmHWM:")[1].split()[0]) * 1024)
        return out

    def test_long(self):
        t = Tolld(**dict(OPTIONS, workers=1))
        self.addCleanup(t.close)
        t.start()
        c = Client(t, t.account("alice", "1000"))
        session = c.say("the first\nand more")[0]["session_id"]
        todo = iter(range(self.TURNS - 1))
        lock, errors = threading.Lock(), []

        def talk():
            conn = http.client.HTTPConnection("127.0.0.1", t.port, timeout=60 * SLOW)
            while not errors:
                with lock:
                    n = next(todo, None)
                if n is None:
                    break
                conn.request("POST", "/api/chat", json.dumps(
                    {"model": "short", "session_id": session, "message": f"{n} " + "word " * 200}),
                    {"Authorization": "Bearer " + c.key})
                r = conn.getresponse()
                body = r.read()
                if r.status != 200:
                    errors.append(body)
            conn.close()

        threads = [threading.Thread(target=talk) for _ in range(8)]
        for th in threads:
            th.start()
        for th in threads:
            th.join()
        self.assertEqual(errors, [])
        before = self.peak(t)
        self.assertEqual(c.sessions()[0]["messages"], 2 * self.TURNS)
        whole = c.messages(session, 200)
        self.assertEqual(len(whole), 2 * self.TURNS)
        self.assertEqual(len({m["id"] for m in whole}), 2 * self.TURNS)
        said = [m["content"].split()[0] for m in whole[2::2]]
        self.assertEqual(sorted(map(int, said)), list(range(self.TURNS - 1)))
        p = c.preview("and now?", session_id=session)
        self.assertLessEqual(p["prompt_tokens"], 4000 + 20)
        self.assertGreater(p["prompt_tokens"], 3000)
        # Pages are of a megabyte at most: so is what they may add, with a copy or two.
        self.assertLess(self.peak(t) - before, 16 << 20)
        self.assertEqual(c.forget(session)[0], 200)
        self.assertEqual(c.sessions(), [])
        self.assertEqual(c.say("still here")[1][-1]["type"], "done")
        self.assertEqual(t.stop(), 0, t.log())


class Retention(unittest.TestCase):
    def daemon(self, history):
        t = Tolld(workers=2, models=MODELS, config=f"history {{ {history} }}")
        self.addCleanup(t.close)
        self.clock = Clock(BUILD, t.folder)
        t.env.update(self.clock.env)
        return t.start()

    def test_number(self):
        t = self.daemon("keep_sessions = 5")
        a, b = Client(t, t.account("a", "10")), Client(t, t.account("b", "10"))
        ids = [a.say(f"s {n}")[0]["session_id"] for n in range(5)]
        other = b.say("b's")[0]["session_id"]
        # The one that is used is not the oldest.
        a.say("again", session_id=ids[0])
        new = a.say("new")[0]["session_id"]
        self.assertEqual([s["id"] for s in a.sessions()], [new, ids[0], ids[4], ids[3], ids[2]])
        self.assertEqual(a.get(ids[1])[0], 404)
        self.assertEqual([s["id"] for s in b.sessions()], [other])
        # A bound that was lowered holds after a restart.
        self.assertEqual(t.stop(), 0)
        t.extra = ("history { keep_sessions = 2 }",) + t.extra[1:]
        t.write_config()
        t.start()
        wait_for(lambda: [s["id"] for s in a.sessions()] == [new, ids[0]], 10, "the rest to go")
        t.audit()

    def test_age(self):
        t = self.daemon("keep_days = 3")
        c = Client(t, t.account("a", "10"))
        old = c.say("old")[0]["session_id"]
        used = c.say("old, too")[0]["session_id"]
        self.clock.forward(2 * 86400)
        c.say("used", session_id=used)
        self.assertEqual(len(c.sessions()), 2)
        self.clock.forward(86400 + 60)
        # It is looked after once a minute, and at a start.
        self.assertEqual(t.stop(), 0)
        t.start()
        wait_for(lambda: [s["id"] for s in c.sessions()] == [used], 10, "the old one to go")
        self.assertEqual(c.get(old)[0], 404)
        self.assertEqual(len(c.messages(used)), 4)
        t.audit()

    def test_off(self):
        """Nothing is kept, what was is removed, and a stream can still be come back to."""
        t = self.daemon("enabled = true")
        c = Client(t, t.account("a", "10"))
        session = c.say("old")[0]["session_id"]
        self.assertEqual(t.stop(), 0)
        t.extra = ("history { enabled = false }",) + t.extra[1:]
        t.write_config()
        t.start()
        for method in ("GET", "DELETE"):
            status, _, body = t.request(method, f"/chat/history?session_id={session}", key=c.key)
            self.assertEqual((status, body["error"]["code"]), (404, "not_found"))
        sent, events = c.say("hello", "echo", session_id=session)
        self.assertEqual(asked(events), [{"role": "user", "content": "hello"}])
        c.say("a secret xyzzy question", "short")
        for name in ("journal.mdb", "state.mdb"):
            with open(os.path.join(t.folder, "state", name), "rb") as f:
                self.assertNotIn(b"xyzzy", f.read())
        again = list(t.open(sent["stream_id"]).typed())
        self.assertEqual(text_of(again), text_of(events))
        wait_for(lambda: "what there was of it is removed" in t.log(), 20, "all of it to go")
        self.assertEqual(t.stop(), 0)
        t.extra = ("",) + t.extra[1:]
        t.write_config()
        t.start()
        self.assertEqual(c.sessions(), [])
        c.say("new")
        self.assertEqual(len(c.sessions()), 1)
        t.audit()


if __name__ == "__main__":
    unittest.main(verbosity=1)
