"""Clients of /v1 for the tests: what came, byte by byte, and what it says."""
import http.client
import json

from tolld import SLOW


class Answer:
    """A reply to a request on /v1, read to its end; `chunks`: the JSON of a stream's events."""

    def __init__(self, status, headers, body, broken=False, newline="\n"):
        self.status, self.headers, self.body, self.broken = status, headers, body, broken
        self.chunks, self.done, self.comments = [], 0, 0
        self.json = None
        if (headers.get("Content-Type") or "").startswith("text/event-stream"):
            self.read_events(body.decode().replace(newline, "\n"))
        else:
            try:
                self.json = json.loads(body)
            except ValueError:
                pass

    def read_events(self, text):
        for event in text.split("\n\n"):
            if event == "":
                continue
            if event.startswith(":"):
                self.comments += 1
                continue
            # One line each, no id, no name: what every SDK reads.
            assert event.startswith("data: ") and "\n" not in event, event
            assert not self.done, "an event after [DONE]"
            if event == "data: [DONE]":
                self.done += 1
            else:
                self.chunks.append(json.loads(event[6:]))

    def text(self, index=0, field="content"):
        return "".join(c["delta"].get(field) or "" for x in self.chunks
                       for c in x.get("choices", []) if c["index"] == index)

    def finish(self, index=0):
        """All finish reasons that a choice got; one, of a good answer."""
        return [c["finish_reason"] for x in self.chunks for c in x.get("choices", [])
                if c["index"] == index and c["finish_reason"] is not None]

    def usage(self):
        found = [x["usage"] for x in self.chunks if x.get("usage")]
        return found[-1] if found else None

    def tolld(self):
        """The member of our own, in the last chunk."""
        assert all("tolld" not in x for x in self.chunks[:-1]), self.chunks
        return self.chunks[-1].get("tolld")

    def error(self):
        return (self.json or self.chunks[-1]).get("error")


def post(t, path, body, key=None, headers=None, newline="\n"):
    """Ask, and read all of it."""
    c = http.client.HTTPConnection("127.0.0.1", t.port, timeout=60 * SLOW)
    headers = dict(headers or {})
    if key:
        headers["Authorization"] = "Bearer " + key
    if not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    try:
        c.request("POST", path, body, headers)
        r = c.getresponse()
        broken = False
        try:
            out = r.read()
        except http.client.IncompleteRead as e:
            out, broken = e.partial, True
        return Answer(r.status, r.headers, out, broken, newline)
    finally:
        c.close()


def chat(t, key, model="sim", content="hello there", headers=None, **fields):
    body = dict({"model": model, "messages": [{"role": "user", "content": content}]}, **fields)
    return post(t, "/v1/chat/completions", body, key, headers)


def stream(t, key, model="sim", content="hello there", usage=False, headers=None, **fields):
    if usage:
        fields["stream_options"] = {"include_usage": True}
    return chat(t, key, model, content, headers, stream=True, **fields)
