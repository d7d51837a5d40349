#!/usr/bin/env node
// Goal:   the module's promises: a stream's text is given once and whole, however its connection
//         breaks; a send is one send; errors say what they are.
// Method: a server of the test's own, which breaks connections where it is told to, and the parser
//         alone, cut everywhere.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import test from 'node:test';
import * as module from '../../daemon/page/tolld.js';

const {
	CreditError, KeyError, LimitError, NetworkError, NotFoundError, RequestError, ScopeError, ServerError,
	SseParser, Tolld, TolldError,
} = module;

// The same sequence for the same seed, so that what fails fails again.
function random(seed) {
	let s = seed;
	return (n) => {
		s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
		return Math.floor(s / 2 ** 32 * n);
	};
}

async function serve(t, handler) {
	const seen = [];
	const server = http.createServer((req, res) => {
		let body = '';
		req.on('data', (d) => {
			body += d;
		});
		req.on('end', () => {
			seen.push({ method: req.method, url: req.url, headers: req.headers, body });
			handler(req, res, body, seen.length);
		});
	});
	await new Promise((r) => server.listen(0, '127.0.0.1', r));
	t.after(() => {
		server.closeAllConnections();
		server.close();
	});
	return { seen, url: `http://127.0.0.1:${server.address().port}` };
}

const client = (url, more) => new Tolld({ baseUrl: url, key: 'k', backoffMs: 1, ...more });

function json(res, status, body, headers = {}) {
	res.writeHead(status, { 'content-type': 'application/json', ...headers });
	res.end(JSON.stringify(body));
}

const refusal = (code, more) => ({ error: { message: `it is ${code}`, type: 'x', code, param: null, ...more } });

const frame = (id, type, data) => `id: ${id}\ndata: ${JSON.stringify({ type, data })}\n\n`;
const size = (text) => Buffer.byteLength(text);

// A stream as tolld gives it, from a byte offset on, in pieces of so many letters.
function events(text, from, piece) {
	const out = [frame(`${from}-b`, 'metadata', { stream_id: 's', model: 'm' })];
	const letters = Array.from(Buffer.from(text).subarray(from).toString());
	let at = from;
	for (let i = 0; i < letters.length; i += piece) {
		const token = letters.slice(i, i + piece).join('');
		at += size(token);
		out.push(frame(at, 'token', { token }));
		if (i % 5 === 4)
			out.push(frame(`${at}-m`, 'meter', { completion_tokens: i, cost: 0.1, available: 1 }));
	}
	out.push(frame(`${size(text)}-e`, 'done', { finish_reason: 'stop', cost: 0.2, full_text: text }));
	return out.join('');
}

const sse = { 'content-type': 'text/event-stream' };

async function all(stream) {
	const out = [];
	for await (const e of stream)
		out.push(e);
	return out;
}

const textOf = (list) => list.filter((e) => e.type === 'token').map((e) => e.token).join('');

// --- the parser ----------------------------------------------------------------------------------

const SSE = '\ufeffdata: one\n\n: comment\ndata: two\r\ndata:three\r\n\r\nid: 7\revent: e\rdata\r\r' +
	'id: x\0y\ndata:  four\nretry: 5\nunknown: z\n\nevent: nothing\n\ndata: {"a":"й🙂"}\nid\n\ndata: not whole\n';
const SSE_EVENTS = [
	{ id: '', event: 'message', data: 'one' },
	{ id: '', event: 'message', data: 'two\nthree' },
	{ id: '7', event: 'e', data: '' },
	{ id: '7', event: 'message', data: ' four' },
	{ id: '', event: 'message', data: '{"a":"й🙂"}' },
];

test('events are those of the standard', () => {
	assert.deepEqual(new SseParser().feed(SSE), SSE_EVENTS);
});

test('how the text is cut never shows', () => {
	for (let i = 0; i <= SSE.length; i++)
		for (let j = i; j <= SSE.length; j += 3) {
			const p = new SseParser();
			const got = [SSE.slice(0, i), SSE.slice(i, j), SSE.slice(j)].flatMap((s) => p.feed(s));
			assert.deepEqual(got, SSE_EVENTS, `cut at ${i} and ${j}`);
		}
	const p = new SseParser();
	assert.deepEqual(Array.from(SSE).flatMap((c) => p.feed(c)), SSE_EVENTS);
});

test('an event without an end is not taken in for ever', () => {
	const p = new SseParser();
	const piece = `data: ${'x'.repeat(1 << 20)}`;
	assert.throws(() => {
		for (let i = 0; i < 100; i++)
			p.feed(piece);
	}, NetworkError);
});

// --- streams -------------------------------------------------------------------------------------

const TEXT = 'The дорога к 🙂 старой mill — runs; 沿着河流 past é\u0301, ok. '.repeat(20);

test('a stream in one connection', async (t) => {
	const { url, seen } = await serve(t, (req, res) => {
		res.writeHead(200, sse);
		res.end(events(TEXT, 0, 3));
	});
	const states = [];
	const got = await all(client(url).stream({ stream_id: 'a b' }, { onState: (s) => states.push(s.state) }));
	assert.equal(textOf(got), TEXT);
	assert.deepEqual([got[0].type, got.at(-1).type, got.at(-1).full_text], ['metadata', 'done', TEXT]);
	assert.ok(got.some((e) => e.type === 'meter' && e.available === 1));
	assert.deepEqual(states, ['connecting', 'open']);
	assert.equal(seen[0].url, '/stream?id=a+b');
	assert.equal(seen[0].headers['last-event-id'], undefined);
	// The id is what lets one in: the key is not sent where it is not needed.
	assert.equal(seen[0].headers.authorization, undefined);
});

for (const [name, honest] of [['that goes on where it was left', true], ['that begins anew each time', false]])
	test(`a thousand broken connections to a server ${name}`, async (t) => {
		const chance = random(honest ? 1 : 2);
		let breaks = 0;
		const { url } = await serve(t, (req, res) => {
			const id = req.headers['last-event-id'] ?? '';
			const from = honest ? Number.parseInt(id, 10) || 0 : 0;
			const body = Buffer.from(events(TEXT, from, 1 + chance(4)));
			res.writeHead(200, sse);
			// Anywhere: within the head of an event, a character, a line's end.  So late now and then
			// that it moves on.
			const cut = honest ? 60 + chance(160) : chance(body.length);
			if (breaks++ >= 1000 || cut >= body.length)
				res.end(body);
			else
				res.write(body.subarray(0, cut), () => res.destroy());
		});
		const read = async () => {
			const got = await all(client(url, { backoffMs: 0 }).stream('s'));
			assert.equal(textOf(got), TEXT);
			assert.deepEqual(got.filter((e) => ['metadata', 'done'].includes(e.type)).length, 2);
			let at = 0;
			for (const e of got)
				if (e.type === 'token')
					assert.equal(Number(e.id), at += size(e.token));
		};
		while (breaks < 1000)
			await Promise.all(Array.from({ length: 10 }, read));
	});

test('a piece that is missing is asked for, not passed over', async (t) => {
	const { url, seen } = await serve(t, (req, res, body, n) => {
		res.writeHead(200, sse);
		if (n === 1)
			res.end(frame('3', 'token', { token: 'one' }) + frame('9', 'token', { token: 'four' }));
		else if (n === 2)
			res.end(frame('11-e', 'done', { finish_reason: 'stop' }));
		else
			res.end(events('one two three', Number.parseInt(req.headers['last-event-id'], 10), 2));
	});
	assert.equal(textOf(await all(client(url).stream('s'))), 'one two three');
	assert.deepEqual(seen.map((s) => s.headers['last-event-id']), [undefined, '3', '3']);
});

test('pieces that overlap are cut to what is new', async (t) => {
	const { url } = await serve(t, (req, res) => {
		res.writeHead(200, sse);
		res.end(frame('4', 'token', { token: 'ой' }) + frame('2', 'token', { token: 'о' }) +
			frame('8', 'token', { token: 'ойок' }) + frame('8-e', 'done', { finish_reason: 'stop' }));
	});
	assert.equal(textOf(await all(client(url).stream('s'))), 'ойок');
});

test('one may begin in the middle, and after the end there is nothing', async (t) => {
	const { url } = await serve(t, (req, res) => {
		const id = req.headers['last-event-id'];
		if (id.endsWith('-e')) {
			res.writeHead(204);
			res.end();
		} else {
			res.writeHead(200, sse);
			res.end(events('abcdef', Number.parseInt(id, 10), 1));
		}
	});
	assert.equal(textOf(await all(client(url).stream('s', { lastEventId: '4' }))), 'ef');
	assert.equal(textOf(await all(client(url).stream('s', { lastEventId: '4-m' }))), 'ef');
	assert.deepEqual(await all(client(url).stream('s', { lastEventId: '6-e' })), []);
});

test('an error event is the end, and comes with what it cost', async (t) => {
	const { url, seen } = await serve(t, (req, res) => {
		res.writeHead(200, sse);
		res.end(frame('0-e', 'error', { error: { code: 'upstream_error', message: 'm' }, cost: 0, balance: 5 }));
	});
	const got = await all(client(url).stream('s'));
	assert.deepEqual(got, [{ type: 'error', id: '0-e', error: { code: 'upstream_error', message: 'm' }, cost: 0, balance: 5 }]);
	assert.equal(seen.length, 1);
});

test('what passes is waited for, what does not is thrown', async (t) => {
	const script = [
		(res) => json(res, 503, refusal('overloaded'), { 'retry-after': '0' }),
		(res) => json(res, 429, refusal('rate_limit_exceeded')),
		(res) => res.destroy(),
		(res) => {
			res.writeHead(502, { 'content-type': 'text/html' });
			res.end('<h1>Bad gateway</h1>');
		},
		(res) => {
			res.writeHead(200, { 'content-type': 'text/html' }); // a log-in page of somebody's network
			res.end('<h1>Welcome</h1>');
		},
		(res) => {
			res.writeHead(200, sse);
			res.end('data: {"type":"tok\n\n'); // no JSON
		},
		(res) => {
			res.writeHead(200, sse);
			res.end(events('fine', 0, 2));
		},
	];
	const { url } = await serve(t, (req, res, body, n) => script[n - 1](res));
	const waits = [];
	const got = await all(client(url).stream('s', { onState: (s) => s.state === 'waiting' && waits.push(s.error) }));
	assert.equal(textOf(got), 'fine');
	assert.deepEqual(waits.map((e) => e.constructor), [ServerError, LimitError, NetworkError, ServerError, NetworkError, NetworkError]);
	assert.ok(waits.every((e) => typeof e.message === 'string'));

	const gone = await serve(t, (req, res) => json(res, 404, refusal('not_found')));
	await assert.rejects(all(client(gone.url).stream('s')), NotFoundError);
	assert.equal(gone.seen.length, 1);
	const wrong = await serve(t, (req, res) => json(res, 400, refusal('invalid_request', { param: 'id' })));
	await assert.rejects(all(client(wrong.url).stream('s')), (e) => e instanceof RequestError && e.param === 'id');
	await assert.rejects(all(client(wrong.url).stream('')), TypeError);
});

test('it gives up when nothing is heard for too long', async () => {
	const waits = [];
	await assert.rejects(all(client('http://127.0.0.1:1').stream('s', {
		giveUpMs: 1500, onState: (s) => s.state === 'waiting' && waits.push(s.ms),
	})), NetworkError);
	assert.ok(waits.length > 2, `${waits}`);
	waits.forEach((ms, i) => assert.ok(ms >= 2 ** i / 2 && ms <= 2 ** i, `pause ${i}: ${ms}`));
});

test('a connection that fell silent is taken up anew', async (t) => {
	const { url, seen } = await serve(t, (req, res) => {
		res.writeHead(200, sse);
		const from = Number.parseInt(req.headers['last-event-id'], 10);
		if (from === 2)
			res.end(events('abcd', from, 1));
		else
			res.write(frame('2', 'token', { token: 'ab' })); // and nothing more, for ever
	});
	assert.equal(textOf(await all(client(url, { silenceMs: 300 }).stream('s'))), 'abcd');
	assert.equal(seen.at(-1).headers['last-event-id'], '2');
});

test('comments keep a connection alive', async (t) => {
	// The clock is the test's: nothing is late by chance.
	t.mock.timers.enable({ apis: ['setTimeout'] });
	const encode = (s) => new TextEncoder().encode(s);
	let n = 0;
	const body = new ReadableStream({
		pull(controller) {
			t.mock.timers.tick(199);
			if (n++ < 20) {
				controller.enqueue(encode(': keep-alive\n\n'));
			} else {
				controller.enqueue(encode(events('abcd', 0, 1)));
				controller.close();
			}
		},
	}, { highWaterMark: 0 });
	let asked = 0;
	const answers = async (url, { signal }) => {
		asked++;
		signal.addEventListener('abort', () => body.locked || body.cancel());
		return new Response(body, { headers: sse });
	};
	assert.equal(textOf(await all(client('', { fetch: answers, silenceMs: 200 }).stream('s'))), 'abcd');
	assert.equal(asked, 1);
	assert.equal(n, 21);
});

test('an abort cancels the stream, or only leaves it', async (t) => {
	const { url, seen } = await serve(t, (req, res) => {
		if (req.method === 'DELETE') {
			json(res, 200, { ok: true, finish_reason: 'cancelled' });
		} else {
			res.writeHead(200, sse);
			res.write(frame('2', 'token', { token: 'ab' }));
		}
	});
	const deletes = () => seen.filter((s) => s.method === 'DELETE' && s.url === '/stream?id=s').length;
	const read = async (options, controller) => {
		const reason = new Error('enough');
		await assert.rejects(async () => {
			for await (const e of client(url).stream('s', { ...options, signal: controller.signal }))
				if (e.type === 'token')
					controller.abort(reason);
		}, (e) => e === reason);
	};
	await read({ cancelOnAbort: false }, new AbortController());
	assert.equal(deletes(), 0);
	await read({}, new AbortController());
	for (let i = 0; deletes() === 0 && i < 500; i++)
		await new Promise((r) => setTimeout(r, 10));
	assert.equal(deletes(), 1);
	// Aborted before it began: nothing is read.
	const gets = seen.filter((s) => s.method === 'GET').length;
	await assert.rejects(all(client(url).stream('s', { signal: AbortSignal.abort(), cancelOnAbort: false })), { name: 'AbortError' });
	assert.equal(seen.filter((s) => s.method === 'GET').length, gets);
	// Leaving the loop leaves the stream to itself.
	for await (const e of client(url).stream('s'))
		if (e.type === 'token')
			break;
	assert.equal(deletes(), 1);
});

test('an abort ends a pause, too', async () => {
	const controller = new AbortController();
	await assert.rejects(all(client('http://127.0.0.1:1', { backoffMs: 100000 }).stream('s', {
		signal: controller.signal, cancelOnAbort: false, onState: (s) => s.state === 'waiting' && controller.abort(),
	})), { name: 'AbortError' });
});

test('without readable streams all comes at the end', async () => {
	const answer = { ok: true, status: 200, headers: new Headers(sse), body: null, text: async () => events(TEXT, 0, 3) };
	assert.equal(textOf(await all(client('', { fetch: async () => answer }).stream('s'))), TEXT);
});

// --- calls ---------------------------------------------------------------------------------------

test('a send whose answer was lost is sent again as the same one', async (t) => {
	const { url, seen } = await serve(t, (req, res, body, n) => {
		switch (n) {
		case 1: res.destroy(); break;
		case 2: json(res, 503, refusal('overloaded'), { 'retry-after': '0' }); break;
		case 3:
			res.writeHead(200, { 'content-type': 'application/json', 'content-length': 100 });
			res.write('{"ok":tr', () => res.destroy());
			break;
		default: json(res, 200, { ok: true, stream_id: 's' });
		}
	});
	const sent = await client(url).send({ model: 'm', message: 'hi' });
	assert.equal(sent.stream_id, 's');
	assert.equal(seen.length, 4);
	const [first] = seen;
	assert.match(first.headers['idempotency-key'], /^[0-9a-f]{32}$/);
	assert.equal(first.headers.authorization, 'Bearer k');
	assert.deepEqual(JSON.parse(first.body), { model: 'm', message: 'hi' });
	for (const s of seen)
		assert.deepEqual([s.headers['idempotency-key'], s.body], [first.headers['idempotency-key'], first.body]);
	await client(url).send({ message: 'hi' });
	assert.notEqual(seen[4].headers['idempotency-key'], first.headers['idempotency-key']);
	await client(url).send({ message: 'hi' }, { idempotencyKey: 'mine' });
	assert.equal(seen[5].headers['idempotency-key'], 'mine');
});

test('what is refused is not sent again, and says why', async (t) => {
	const cases = [
		[400, 'invalid_request', RequestError], [401, 'invalid_api_key', KeyError],
		[402, 'insufficient_credit', CreditError], [403, 'insufficient_scope', ScopeError],
		[404, 'model_not_found', NotFoundError], [409, 'idempotency_conflict', RequestError],
		[410, 'stream_lost', NotFoundError], [413, 'body_too_large', RequestError],
		[429, 'rate_limit_exceeded', LimitError], [501, 'not_implemented', ServerError],
	];
	for (const [status, code, type] of cases) {
		const { url, seen } = await serve(t, (req, res) => json(res, status,
			refusal(code, { param: 'model', required: 0.5, available: 0.25 }),
			{ 'retry-after': '7', 'x-request-id': 'r1' }));
		await assert.rejects(client(url).send({ message: 'hi' }), (e) => {
			assert.equal(e.constructor, type);
			assert.ok(e instanceof TolldError);
			assert.deepEqual([e.name, e.status, e.code, e.retryAfter, e.requestId, e.param, e.message],
				[type.name, status, code, 7, 'r1', 'model', `it is ${code}`]);
			if (status === 402)
				assert.deepEqual([e.required, e.available], [0.5, 0.25]);
			return true;
		});
		assert.equal(seen.length, 1, code);
	}
	const final = await serve(t, (req, res) => json(res, 503, refusal('cancelled'), { 'x-should-retry': 'false' }));
	await assert.rejects(client(final.url).send({ message: 'hi' }), ServerError);
	assert.equal(final.seen.length, 1);
	const date = await serve(t, (req, res) => json(res, 429, refusal('x'), { 'retry-after': new Date(Date.now() + 999500).toUTCString() }));
	await assert.rejects(client(date.url).balance(), (e) => e.retryAfter >= 900 && e.retryAfter <= 1000);
	const odd = await serve(t, (req, res) => {
		res.writeHead(418, { 'content-type': 'text/html' });
		res.end('<p>');
	});
	await assert.rejects(client(odd.url).balance(), (e) => e.code === 'http_418' && e.message === 'HTTP status 418');
});

test('what fails again and again is given up', async (t) => {
	const { url, seen } = await serve(t, (req, res) => json(res, 503, refusal('draining')));
	await assert.rejects(client(url).send({ message: 'hi' }), (e) => e.code === 'draining');
	assert.equal(seen.length, 5);
	await assert.rejects(client(url).send({ message: 'hi' }, { retries: 0 }), ServerError);
	assert.equal(seen.length, 6);
	// A chat without a stream has no Idempotency-Key: asked once.
	await assert.rejects(client(url).chat({ message: 'hi' }), ServerError);
	assert.equal(seen.length, 7);
	await assert.rejects(client('http://127.0.0.1:1').balance(), (e) => e instanceof NetworkError && e.code === 'network' && e.cause instanceof Error);
});

test('time-outs and aborts of calls', async (t) => {
	const { url } = await serve(t, () => {});
	let asked = 0;
	const counting = (...args) => {
		asked++;
		return fetch(...args);
	};
	await assert.rejects(client(url, { fetch: counting }).preview({ message: 'x' }, { timeoutMs: 300, retries: 1 }), NetworkError);
	assert.equal(asked, 2);
	const c = new AbortController();
	setTimeout(() => c.abort(), 20);
	await assert.rejects(client(url).preview({ message: 'x' }, { signal: c.signal }), { name: 'AbortError' });
});

test('each call asks for what it says', async (t) => {
	const { url, seen } = await serve(t, (req, res) => json(res, 200, { data: [1], ok: true }));
	const c = client(`${url}/`);
	assert.deepEqual(await c.models(), [1]);
	await c.balance();
	await c.preview({ message: 'é' });
	await c.chat({ message: 'x' });
	await c.cancel('a/b');
	await c.cancel({ stream_id: 's' });
	await c.sessions();
	await c.sessions({ before: 'x y', limit: 5 });
	await c.history('s&1');
	await c.history('s', { before: 3 });
	await c.forget('s');
	assert.throws(() => c.history(), TypeError);
	assert.throws(() => c.forget(''), TypeError);
	assert.deepEqual(seen.map((s) => `${s.method} ${s.url}`), [
		'GET /v1/models', 'GET /balance', 'POST /chat/preview', 'POST /api/chat',
		'DELETE /stream?id=a%2Fb', 'DELETE /stream?id=s',
		'GET /chat/history', 'GET /chat/history?before=x+y&limit=5',
		'GET /chat/history?session_id=s%261', 'GET /chat/history?session_id=s&before=3',
		'DELETE /chat/history?session_id=s',
	]);
	assert.ok(seen.every((s) => s.headers.authorization === 'Bearer k'));
	assert.equal(seen[2].body, '{"message":"é"}');
});

// --- types ---------------------------------------------------------------------------------------

test('the types name what is there', () => {
	const types = fs.readFileSync(new URL('../../daemon/page/tolld.d.ts', import.meta.url), 'utf8');
	const classes = [...types.matchAll(/^export class (\w+)(?: extends (\w+))? \{(?:\}|([^]*?)\n\})/gm)];
	assert.deepEqual(classes.map((c) => c[1]).sort(), Object.keys(module).sort());
	for (const [, name, base, body = ''] of classes) {
		if (base)
			assert.equal(Object.getPrototypeOf(module[name]).name, base);
		const said = [...body.matchAll(/^\t(?:static )?(\w+)\(/gm)].map((m) => m[1]).filter((m) => m !== 'constructor');
		const there = Object.getOwnPropertyNames(module[name].prototype).filter((m) => m !== 'constructor');
		assert.deepEqual(said.sort(), there.sort(), name);
	}
});
