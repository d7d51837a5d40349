"""A provider that answers from a script: what the simulated one (tests/sim) cannot do, such as
another answer to each attempt, and that remembers what it was sent.
"""
import json
import socket
import threading
import time


def event(**fields):
    return "data: " + json.dumps(fields) + "\n\n"


def text(s):
    return event(choices=[{"index": 0, "delta": {"content": s}, "finish_reason": None}])


def usage(prompt, completion):
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion,
                                    "total_tokens": prompt + completion})


ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""},
                       "finish_reason": None}])
FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE = "data: [DONE]\n\n"


def good(words="good answer", prompt=9, completion=3):
    return Answer(ROLE + text(words) + FINISH + usage(prompt, completion) + DONE)


def status(code, message="it failed", **headers):
    answer = Answer(json.dumps({"error": {"message": message}}), code, "application/json", headers)
    answer.words = message
    return answer


class Answer:
    """One answer.  hang: "before" the head, or "after" the body, until the client closes.
    end: "length" and "chunked" keep the connection, "close" ends the body by closing it, "cut"
    closes in mid-body.  drip: then this, five times a second, until the client closes.  then: an
    event that is waited for, and what comes after it."""

    def __init__(self, body="", code=200, kind="text/event-stream", headers=None, hang=None,
                 end="chunked", drip=None, then=None):
        if drip:
            hang = "after"
        self.body, self.code, self.kind = body.encode(), code, kind
        self.headers, self.hang, self.end = headers or {}, hang, end
        self.drip = drip.encode() if drip else None
        self.then = then

    def bytes(self):
        head = [f"HTTP/1.1 {self.code} X"] + ([f"Content-Type: {self.kind}"] if self.kind else [])
        head += [f"{k.replace('_', '-')}: {v}" for k, v in self.headers.items()]
        if self.end == "length":
            head.append(f"Content-Length: {len(self.body)}")
            body = self.body
        elif self.end == "close":
            head.append("Connection: close")
            body = self.body
        else:
            head.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n" % (len(self.body), self.body) if self.body else b""
            if self.end != "cut" and self.hang != "after" and not self.then:
                body += b"0\r\n\r\n"
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Seen:
    """A request that came: its head's lines, its headers, its body, when, on which connection."""

    def __init__(self, head, body, connection):
        self.at = time.monotonic()
        self.lines = head.decode().split("\r\n")
        self.headers = {k.lower(): v.strip() for k, _, v in
                        (x.partition(":") for x in self.lines[1:])}
        self.body = json.loads(body)
        self.connection = connection
        self.closed_at = None  # when the client closed it, as far as the answer hung

    @property
    def key(self):
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Provider:
    """Answers with what `script` holds, one each, and then with `default`; either may be a
    function of the request."""

    def __init__(self, context=None):
        self.default, self.script, self.seen = good(), [], []
        self.context = context  # for TLS
        self.connections = 0
        self.lock = threading.Lock()
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self, *script):
        with self.lock:
            self.script, self.seen, self.default = list(script), [], good()

    def _accept(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(c, self.connections), daemon=True).start()

    def _serve(self, c, number):
        try:
            if self.context:
                c = self.context.wrap_socket(c, server_side=True)
            while self._one(c, number):
                pass
        except OSError:
            pass
        c.close()

    def _one(self, c, number):
        data = b""
        while b"\r\n\r\n" not in data:
            more = c.recv(65536)
            if not more:
                return False
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n")
                      if x.lower().startswith(b"content-length:"))
        body = bytearray(body)
        while len(body) < length:
            body += c.recv(1 << 20)
        seen = Seen(head, body, number)
        with self.lock:
            answer = self.script.pop(0) if self.script else self.default
            self.seen.append(seen)
        if callable(answer):
            answer = answer(seen)
        if answer.hang != "before":
            c.sendall(answer.bytes())
        if answer.then:
            go, more = answer.then
            go.wait(600)
            c.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(more), more.encode()))
        if answer.hang:
            try:
                self._hang(c, answer.drip)
            except OSError:
                pass
            seen.closed_at = time.monotonic()
        return not answer.hang and answer.end in ("length", "chunked")

    @staticmethod
    def _hang(c, drip):
        c.settimeout(0.2 if drip else None)
        while True:
            try:
                if not c.recv(65536):
                    return
            except TimeoutError:
                c.sendall(b"%x\r\n%s\r\n" % (len(drip), drip))

    def close(self):
        self.socket.close()
