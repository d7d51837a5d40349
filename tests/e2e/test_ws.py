"""Goal:   questions and answers at /ws/chat/{account} are metered, cut and settled as any other stream,
        and ended when their client leaves.
Method: a WebSocket client of our own (ws.py), the provider's own count of who left, kills and drains,
        and the books after each.
"""
import json
import os
import signal
import socket
import struct
import time
import unittest

from tolld import Tolld, cost, micro, rests, text_of, wait_for, within_a_day
from ws import ANY, CLOSE, MODELS, PING, PONG, TEXT, Closed, Refused, WebSocket, WsCase, frame


class Chat(WsCase):
    OPTIONS = dict(workers=2, models=MODELS, config=ANY,
                   ledger="slice_tokens = 50 reconnect_grace = 600", timeouts="first_token = 4")

    def test_question_and_answer(self):
        before = self.balance()
        w = self.ws()
        w.ask(model="short")
        text, end = w.answer()
        self.assertEqual(sorted(end), sorted([
            "type", "finish_reason", "usage", "cost", "balance", "model", "session_id",
            "message_id", "stream_id"]))
        self.assertEqual((end["type"], end["finish_reason"], end["model"]),
                         ("end", "stop", "short"))
        self.assertEqual(end["usage"]["completion_tokens"], 12)
        self.assertEqual(micro(end["cost"]), cost(end["usage"]["prompt_tokens"], 12))
        self.assertEqual(micro(end["balance"]), before - micro(end["cost"]))
        s = self.t.open(end["stream_id"])
        again = list(s.typed())
        s.close()
        self.assertEqual(again[-1]["data"]["full_text"], text)
        # Several in turn, in one session; the default model.
        w.ask("and more", session_id=end["session_id"], type="question")
        text, more = w.answer()
        self.assertEqual((more["session_id"], more["model"]), (end["session_id"], "sim"))
        self.assertNotEqual(more["stream_id"], end["stream_id"])
        self.assertEqual(w.close(), 1000)

    def test_what_send_takes(self):
        w = self.ws()
        w.ask("say \"it\"", model="echo", temperature=0.25, max_tokens=4000, stop=["\n\n"])
        got = json.loads(w.answer()[0])
        self.assertEqual(got["messages"], [{"role": "user", "content": "say \"it\""}])
        self.assertEqual((got["temperature"], got["max_tokens"], got["stop"]),
                         (0.25, 4000, ["\n\n"]))
        for field in ("question", "message", "type", "session_id"):
            self.assertNotIn(field, got)
        w.ask(model="long", max_tokens=7)
        self.assertEqual(w.answer()[1]["finish_reason"], "length")

    def test_the_past_goes_in_front(self):
        """Of the question's session: what the provider is sent, and what is charged, is what the
        preview of the same counted; whatever road the past came by."""
        w = self.ws()
        w.ask("What is \"this\"?\n\tи это 😀", model="short")
        text, end = w.answer()
        session = end["session_id"]
        past = [{"role": "user", "content": "What is \"this\"?\n\tи это 😀"},
                {"role": "assistant", "content": text}]
        more = self.t.run(self.key, "and by send", "short", session_id=session)
        past += [{"role": "user", "content": "and by send"},
                 {"role": "assistant", "content": text_of(more)}]
        body = {"question": "and that?", "model": "echo-uncounted", "session_id": session,
                "max_tokens": 4000}
        preview = self.t.request("POST", "/chat/preview", dict(
            {k: v for k, v in body.items() if k != "question"}, message="and that?"), self.key)[2]
        self.assertGreater(preview["prompt_tokens"], 40)
        before = self.balance()
        w.send(body)
        text, end = w.answer()
        self.assertEqual(json.loads(text)["messages"],
                         past + [{"role": "user", "content": "and that?"}])
        self.assertEqual(end["session_id"], session)
        self.assertEqual(end["usage"]["prompt_tokens"], preview["prompt_tokens"])
        charge = cost(preview["prompt_tokens"], end["usage"]["completion_tokens"])
        self.assertEqual(micro(end["cost"]), charge)
        self.assertEqual(micro(end["balance"]), before - charge)
        # Another account's session is none.
        other = self.ws(self.t.account("bob", "10"), "bob")
        other.send(body)
        self.assertEqual(json.loads(other.answer()[0])["messages"],
                         [{"role": "user", "content": "and that?"}])
        # What was asked here is in the history.
        page = self.t.request("GET", f"/chat/history?session_id={session}", key=self.key)[2]
        self.assertEqual([m["content"] for m in page["messages"]],
                         [m["content"] for m in past] + ["and that?", text])

    def test_bad_messages(self):
        before = self.balance()
        w = self.ws()
        for message, code, param in (
                ("", "invalid_json", None), ("{", "invalid_json", None),
                ("[]", "invalid_json", None), ('"x"', "invalid_json", None),
                ('{"question":"a","question":"b"}', "invalid_json", None),
                ("{}", "invalid_request", "question"),
                ({"question": ""}, "invalid_request", "question"),
                ({"question": 1}, "invalid_request", "question"),
                ({"question": "a", "message": "b"}, "invalid_request", "question"),
                ({"question": "a", "messages": []}, "invalid_request", "question"),
                ({"type": "quit"}, "invalid_request", "type"),
                ({"type": 1, "question": "a"}, "invalid_request", "type"),
                ({"question": "a", "model": "none"}, "model_not_found", "model"),
                ({"question": "a", "model": 1}, "invalid_request", "model"),
                ({"question": "a", "session_id": "x"}, "invalid_request", "session_id"),
                ({"question": "a", "n": 2}, "invalid_request", "n"),
                ({"question": "a", "max_tokens": 0}, "invalid_request", "max_tokens")):
            w.send(message)
            m = w.next()
            self.assertEqual((m["type"], m["code"], m.get("param")), ("error", code, param), message)
            self.assertTrue(m["message"])
        w.send({"type": "cancel"})  # of nothing
        self.lives(w)
        self.assertGreater(before, self.balance())

    def test_one_at_a_time(self):
        w = self.ws()
        w.ask(model="slow")
        self.assertEqual(w.next()["type"], "chunk")
        w.ask(model="short")
        m = w.next()
        while m["type"] == "chunk":
            m = w.next()
        self.assertEqual((m["type"], m["code"]), ("error", "busy"))
        self.assertNotIn("stream_id", m)
        self.assertEqual(w.next()["type"], "chunk")  # it goes on
        w.send({"type": "cancel"})
        self.assertEqual(w.answer()[1]["finish_reason"], "cancelled")
        self.lives(w)

    def test_cancel(self):
        before, cancelled = self.balance(), self.t.sim.stats()["cancelled"]
        w = self.ws()
        w.ask(model="slow")
        got = "".join(w.next()["content"] for _ in range(10))
        w.send({"type": "cancel"})
        rest, end = w.answer()
        self.assertEqual((end["type"], end["finish_reason"]), ("end", "cancelled"))
        n = end["usage"]["completion_tokens"]
        self.assertGreaterEqual(n, 10)
        self.assertLess(n, 2000)
        w.ask(model="slow", max_tokens=n)
        self.assertTrue(w.answer()[0].startswith(got))
        self.assertEqual(micro(end["balance"]), before - cost(self.prompt("slow"), n))
        wait_for(lambda: self.t.sim.stats()["cancelled"] > cancelled, 10, "the provider to see it")
        # Before the first token; in the same breath as the question.
        before = self.balance()
        w.ask(model="silent")
        w.send({"type": "cancel"})
        text, end = w.answer()
        self.assertEqual((text, end["finish_reason"], micro(end["cost"])), ("", "cancelled", 0))
        self.assertEqual(self.balance(), before)
        self.lives(w)

    def test_cut_at_the_last_token_that_can_be_paid(self):
        prompt = self.prompt("long")
        for want in (1, 60, 111):
            credits, n = cost(prompt, want), want
            while cost(prompt, n + 1) <= credits:
                n += 1
            name = f"poor-{want}"
            w = self.ws(self.t.account(name, f"{credits / 1000000:.6f}", 0), name)
            w.ask(model="long")
            text, end = w.answer()
            self.assertEqual((end["type"], end["finish_reason"]), ("end", "credit"))
            self.assertEqual(end["usage"]["completion_tokens"], n)
            self.assertEqual(micro(end["balance"]), credits - cost(prompt, n))
            self.assertEqual(self.balance(name), micro(end["balance"]))
            rich = self.ws()
            rich.ask(model="long", max_tokens=n)
            self.assertEqual(rich.answer()[0], text)
            w.ask(model="long")
            m = w.next()
            self.assertEqual((m["type"], m["code"]), ("error", "insufficient_credit"))
            self.assertGreater(m["required"], m["available"])
            self.assertEqual(w.close(), 1000)

    def test_failures(self):
        before = self.balance()
        w = self.ws()
        for model, code in (("refused", "upstream_error"), ("silent", "upstream_timeout")):
            w.ask(model=model)
            m = w.next()
            self.assertEqual((m["type"], m["code"], m["cost"]), ("error", code, 0))
            self.assertIn("stream_id", m)
        self.assertEqual(self.balance(), before)
        w.ask(model="broken")
        text, m = w.answer()
        self.assertEqual((m["type"], m["code"]), ("error", "upstream_error"))
        self.assertEqual(micro(m["balance"]), before - micro(m["cost"]))
        self.assertLess(self.balance(), before)
        self.lives(w)

    def leave(self, how):
        before, cancelled = self.balance(), self.t.sim.stats()["cancelled"]
        w = self.ws()
        w.ask(model="slow")
        for _ in range(5):
            self.assertEqual(w.next()["type"], "chunk")
        how(w)
        # Far below reconnect_grace.
        wait_for(lambda: self.t.sim.stats()["cancelled"] > cancelled, 10, "the provider to see it")
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "the settlement")
        spent = before - self.balance()
        self.assertGreaterEqual(spent, cost(self.prompt("slow"), 5))
        self.assertLess(spent, cost(self.prompt("slow"), 2000))

    def test_who_leaves_ends_it(self):
        def reset(w):
            w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            w.sock.close()

        self.leave(lambda w: w.sock.close())
        self.leave(reset)
        self.leave(lambda w: w.frame(CLOSE, struct.pack(">H", 1000)))
        self.leave(lambda w: w.frame(3))
        self.leave(lambda w: w.raw(frame(TEXT, b"\xff")))

    def test_an_operator_cancels(self):
        w = self.ws()
        w.ask(model="slow")
        self.assertEqual(w.next()["type"], "chunk")
        stream = wait_for(lambda: self.t.ctl("stream", "list"), 10, "the stream")[0]
        self.t.ctl("stream", "cancel", stream["stream_id"])
        self.assertEqual(w.answer()[1]["finish_reason"], "cancelled")
        self.lives(w)

    def test_long_answers_come_whole(self):
        for model in ("huge", "emoji"):
            w = self.ws()
            w.ask(model=model)
            text, end = w.answer()
            self.assertEqual(end["finish_reason"], "stop")
            s = self.t.open(end["stream_id"])
            self.assertEqual(list(s.typed())[-1]["data"]["full_text"], text)
            s.close()

    def test_a_slow_reader_pauses_the_provider(self):
        """Nobody reads: the provider is not read either, and no memory is taken for it."""
        w = self.ws(receive_buffer=4096)
        before = self.t.sim.stats()["tokens"]
        w.ask(model="huge")
        rests(lambda: self.t.sim.stats()["tokens"] - before, what="the provider to stop")
        # It can still say something: it is the answer that waits, not the connection.
        self.assertEqual(self.t.sim.stats()["open"], 1)
        w.frame(PING, b"x")
        pongs = 0
        text = ""
        while True:
            opcode, payload = w.next_frame()
            if opcode == PONG:
                pongs += 1
                continue
            m = json.loads(payload)
            if m["type"] != "chunk":
                break
            text += m["content"]
        self.assertEqual((m["type"], m["finish_reason"], pongs), ("end", "stop", 1))
        self.assertEqual(len(text.split()) > 20000, True)

    def test_cancel_by_a_slow_reader(self):
        w = self.ws(receive_buffer=4096)
        cancelled = self.t.sim.stats()["cancelled"]
        w.ask(model="huge")
        wait_for(lambda: self.t.sim.stats()["open"] == 1, 10, "the call")
        w.send({"type": "cancel"})
        wait_for(lambda: self.t.sim.stats()["cancelled"] > cancelled, 10, "the provider to see it")
        self.assertEqual(w.answer()[1]["finish_reason"], "cancelled")

    def test_many_at_once(self):
        all_ = [self.ws() for _ in range(40)]
        for w in all_:
            w.ask(model="long")
        texts = {w.answer()[0] for w in all_}
        self.assertEqual(len(texts), 1)

    def test_requests_are_counted(self):
        self.lives(self.ws())
        self.assertGreater(self.t.metric('tolld_requests_total{route="/ws/chat",code="101"'), 0)


class Limits(WsCase):
    OPTIONS = dict(workers=2, models=MODELS, config="first_sight { grant = 3 }")

    def test_ten_questions_a_minute(self):
        """By itself; neither another connection nor another worker counts anew."""
        key, began = self.t.account("hasty", "10"), time.monotonic()
        answered = refused = 0
        while refused < 6:
            w = self.ws(key, "hasty")
            for _ in range(2):
                w.send("{}")  # what is no question is not counted
                self.assertEqual(w.next()["code"], "invalid_request")
                w.ask(model="short")
                m = w.answer()[1]
                if m["type"] == "end":
                    answered += 1
                    continue
                refused += 1
                self.assertEqual((m["type"], m["code"]), ("error", "rate_limit_exceeded"))
                self.assertGreaterEqual(m["retry_after"], 1)
                self.assertLessEqual(m["retry_after"], 6)
            w.close()
        # One comes back each six seconds.
        self.assertIn(answered, range(10, 11 + int((time.monotonic() - began) / 6)))
        # Others, and other routes, are not meant.
        self.lives(self.ws())
        self.t.run(key, model="short")

    def test_the_accounts_own_limits(self):
        key = self.t.account("limited", "10")
        self.t.ctl("account", "set", "limited", "--rpm", 1)
        w = self.ws(key, "limited")
        self.lives(w)
        w.ask(model="short")
        m = w.next()
        self.assertEqual(m["code"], "rate_limit_exceeded")
        self.assertGreaterEqual(m["retry_after"], 1)
        self.t.ctl("account", "set", "limited", "--rpm", 0, "--streams", 1)
        w.ask(model="slow")
        self.assertEqual(w.next()["type"], "chunk")
        other = self.ws(key, "limited")
        other.ask(model="short")
        self.assertEqual(other.next()["code"], "rate_limit_exceeded")
        w.send({"type": "cancel"})
        w.answer()
        self.lives(other)

    def test_a_long_question_beyond_a_limit_is_not_read(self):
        """Nor is it said what is wrong with it: who has no question left has none."""
        long = "word " * 100000
        hasty, limited = self.t.account("hasty2", "100"), self.t.account("limited2", "10")
        w, began, codes = self.ws(hasty, "hasty2"), time.monotonic(), []
        while codes[-1:] != ["rate_limit_exceeded"]:
            w.ask(long, model="none")
            codes.append(w.next()["code"])
        self.assertEqual(set(codes[:-1]), {"model_not_found"})
        self.assertIn(len(codes), range(11, 12 + int((time.monotonic() - began) / 6)))
        self.t.ctl("account", "set", "limited2", "--rpm", 1)
        w = self.ws(limited, "limited2")
        w.ask(long, model="none")  # it was read, and is a request
        self.assertEqual(w.next()["code"], "model_not_found")
        w.ask(long, model="none")
        m = w.next()
        self.assertEqual(m["code"], "rate_limit_exceeded")
        self.assertGreaterEqual(m["retry_after"], 1)
        self.t.ctl("account", "set", "limited2", "--rpm", 0)
        self.lives(w)

    def test_a_budget(self):
        within_a_day()
        key = self.t.account("thrifty", "10")
        budget = cost(self.prompt("long"), 100)
        self.t.ctl("account", "set", "thrifty", "--budget-day", f"{budget / 1000000:.6f}")
        w = self.ws(key, "thrifty")
        w.ask(model="long")
        text, end = w.answer()
        self.assertEqual((end["type"], end["finish_reason"]), ("end", "credit"))
        self.assertTrue(text)
        self.assertLessEqual(cost(self.prompt("long"), end["usage"]["completion_tokens"]), budget)
        w.ask(model="long")
        m = w.next()
        self.assertEqual((m["type"], m["code"]), ("error", "budget_exceeded"))
        self.assertGreater(m["required"], m["available"])
        self.assertEqual(micro(m["budget_day"]["limit"]), budget)
        self.assertEqual(micro(m["budget_day"]["spent"]), micro(end["cost"]))
        self.t.ctl("account", "set", "thrifty", "--budget-day", "0")
        self.lives(w)

    def test_models_of_a_key(self):
        key = self.t.ctl("key", "create", "alice", "--model", "short")["key"]
        w = self.ws(key)
        self.lives(w)
        w.ask(model="long")
        self.assertEqual(w.next()["code"], "model_not_found")

    def test_a_minted_key(self):
        mint = self.t.ctl("key", "create", "alice", "--scope", "mint,chat")["key"]
        key = self.t.request("POST", "/keys", {"ttl": 60}, mint)[2]["key"]
        self.lives(self.ws(key))


    def test_a_user_whom_nobody_has_seen(self):
        """The handshake waits for the account; what comes meanwhile is read afterwards."""
        key = self.t.ctl("key", "create", "alice", "--trust-user-header")["key"]
        ask = json.dumps({"question": "hello there", "model": "short"}).encode()
        before = self.balance()
        for user in ("new", "other", "new"):
            w = self.ws(key, f"owui:{user}", headers=[f"X-OpenWebUI-User-Id: {user}"],
                        after=frame(PING, b"x") + frame(TEXT, ask))
            self.assertEqual(w.pong(), b"x")
            end = w.answer()[1]
            self.assertEqual(micro(end["balance"]), self.balance(f"owui:{user}"))
            self.lives(w)
            w.close()
        self.assertEqual(self.balance(), before)
        with self.assertRaises(Refused) as e:
            self.ws(key, "alice", headers=["X-OpenWebUI-User-Id: new"])
        self.assertEqual(e.exception.code, "account_mismatch")


class Idle(WsCase):
    OPTIONS = dict(workers=1, models=MODELS, config=ANY, timeouts="ws_idle = 2 ws_ping = 1")

    def test_idle(self):
        """An error first, then the close; pings keep nobody."""
        w = self.ws()
        w.frame(PING, b"x")
        w.pong()
        m = w.next()
        self.assertEqual((m["type"], m["code"]), ("error", "idle_timeout"))
        with self.assertRaises(Closed) as e:
            w.next()
        self.assertEqual(e.exception.code, 1001)
        self.assertGreaterEqual(w.pings, 1)
        w.frame(CLOSE, struct.pack(">H", 1001))
        w.gone()

    def test_a_message_that_never_ends(self):
        w = self.ws()
        w.frame(TEXT, b'{"question":"', fin=False)
        self.assertEqual(w.next()["code"], "idle_timeout")

    def test_who_does_not_close(self):
        """Its part of closing is not waited for without end."""
        w = self.ws()
        self.assertEqual(w.next()["code"], "idle_timeout")
        with self.assertRaises(Closed):
            w.next()
        w.gone()

    def test_an_answer_is_not_idle(self):
        w = self.ws()
        w.ask(model="slow", max_tokens=400)
        text, end = w.answer()
        self.assertEqual(end["finish_reason"], "length")
        self.lives(w)

    def test_who_is_silent_for_long(self):
        """A peer that answers no ping is not there."""
        cancelled = self.t.sim.stats()["cancelled"]
        w = self.ws()
        w.ask(model="slow")
        wait_for(lambda: self.t.sim.stats()["cancelled"] > cancelled, 20, "the call to be ended")
        while True:
            opcode, payload = w.next_frame()
            if opcode == CLOSE:
                break
        self.assertEqual(struct.unpack(">H", payload[:2])[0], 1011)


class Ends(unittest.TestCase):
    """What becomes of answers when processes end."""

    def daemon(self, **kw):
        t = Tolld(models=MODELS, **kw)
        self.addCleanup(t.close)
        t.start()
        return t, t.account("alice", "1000")

    def ws(self, t, key, model=None):
        w = WebSocket(t.port, "/ws/chat/alice", key)
        self.addCleanup(w.sock.close)
        if model:
            w.ask(model=model)
            self.assertEqual(w.next()["type"], "chunk")
        return w

    def test_a_worker_is_killed(self):
        t, key = self.daemon(workers=1)
        w = self.ws(t, key, "slow")
        got = "".join(w.next()["content"] for _ in range(20))
        os.kill(t.children()["tolld: worker 1"], signal.SIGKILL)
        with self.assertRaises(Closed) as e:
            while True:
                got += w.next()["content"]
        self.assertEqual(e.exception.code, 1006)
        wait_for(lambda: t.ctl("hold", "list") == [], 10, "the hold to be settled")
        spent = 1000 * 1000000 - micro(t.show("alice")["balance"])
        prompt = t.request("POST", "/chat/preview", {"model": "slow", "message": "hello there"},
                           key)[2]["prompt_tokens"]
        self.assertGreaterEqual(spent, cost(prompt, 21))
        self.assertLess(spent, cost(prompt, 2000))
        t.audit()
        w = self.ws(t, key)
        w.ask(model="short")
        self.assertEqual(w.answer()[1]["type"], "end")
        w.sock.close()
        self.assertEqual(t.stop(), 0)

    def test_drain(self):
        """Who is asked nothing is closed at once; who is being answered, afterwards."""
        t, key = self.daemon(workers=2)
        idle = [self.ws(t, key) for _ in range(4)]
        busy = [self.ws(t, key) for _ in range(4)]
        for w in busy:
            w.ask(model="slow", max_tokens=150)
            self.assertEqual(w.next()["type"], "chunk")
        t.process.send_signal(signal.SIGTERM)
        for w in idle:
            with self.assertRaises(Closed) as e:
                w.next()
            self.assertEqual(e.exception.code, 1001)
            w.frame(CLOSE, struct.pack(">H", 1001))
            w.gone()
        for w in busy:
            self.assertEqual(w.answer()[1]["finish_reason"], "length")
            with self.assertRaises(Closed) as e:
                w.next()
            self.assertEqual(e.exception.code, 1001)
        self.assertEqual(t.stop(), 0)

    def test_drain_timeout(self):
        t, key = self.daemon(workers=1, config="drain_timeout = 1")
        w = self.ws(t, key, "slow")
        t.process.send_signal(signal.SIGTERM)
        text, m = w.answer()
        self.assertEqual((m["type"], m["code"]), ("error", "draining"))
        self.assertGreater(micro(m["cost"]), 0)
        with self.assertRaises(Closed) as e:
            w.next()
        self.assertEqual(e.exception.code, 1001)
        self.assertEqual(t.stop(), 0)
        t.start()
        self.assertEqual(micro(t.show("alice")["balance"]), 1000 * 1000000 - micro(m["cost"]))
        t.audit()
        self.assertEqual(t.stop(), 0)


if __name__ == "__main__":
    unittest.main()
