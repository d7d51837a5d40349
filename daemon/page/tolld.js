// A client of tolld's chat API: preview, send, stream, history, balance.
//
// One file without dependencies, for browsers and for Node.js from 18 on.  docs/javascript.md is its
// manual, tolld.d.ts its types.  The chat page beside it is written with it.
//
// What it takes off one's hands: a send that is repeated is paid once (Idempotency-Key), and a
// stream goes on where a broken connection left it, each byte of the text once and none missing.

const SILENCE_MS = 40000; // a stream says something every 15 s: after this nobody is there
const CALL_MS = 60000; // for an answer that is no stream
const RETRIES = 4;
const GIVE_UP_MS = 300000; // a stream: from the first failure in a row without any news
const BACKOFF_MS = 250; // doubled with each failure
const BACKOFF_MAX_MS = 15000;
const EVENT_MAX = 1 << 26; // characters of one event; an answer has at most 8 MiB

// --- what can go wrong ---------------------------------------------------------------------------

// All that is thrown is one of these, but for the reason of an AbortSignal and a TypeError for
// arguments that make no sense.
export class TolldError extends Error {
	constructor(message, { status = 0, code = 'unknown', retryAfter, requestId, detail = {} } = {}) {
		super(message);
		this.name = new.target.name;
		this.status = status; // of HTTP; 0: there was none
		this.code = code; // as docs/http-api.md lists them
		this.retryAfter = retryAfter; // seconds, where the server named them
		this.requestId = requestId;
		this.param = detail.param ?? undefined; // the field that is wrong
		this.type = detail.type;
		this.detail = detail; // the whole error object
	}
}

export class KeyError extends TolldError {} // 401: no key, or one that is not good
export class ScopeError extends TolldError {} // 403: a good key that may not do this
export class RequestError extends TolldError {} // 400, 405, 409, 413 …: asking again is no use
export class NotFoundError extends TolldError {} // 404, 410: no such model, stream, path
export class LimitError extends TolldError {} // 429
export class ServerError extends TolldError {} // 5xx
export class NetworkError extends TolldError {} // no answer, half an answer, somebody else's answer

export class CreditError extends TolldError { // 402
	constructor(message, about) {
		super(message, about);
		this.required = this.detail.required;
		this.available = this.detail.available;
	}
}

function classOf(status) {
	switch (status) {
	case 401: return KeyError;
	case 402: return CreditError;
	case 403: return ScopeError;
	case 404: case 410: return NotFoundError;
	case 429: return LimitError;
	default: return status >= 500 ? ServerError : RequestError;
	}
}

// Retry-After: seconds, or a date.
function secondsOf(text) {
	if (!text)
		return undefined;
	if (/^\d+$/.test(text))
		return Number(text);
	const date = Date.parse(text);
	return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - Date.now()) / 1000));
}

async function errorOf(response) {
	let detail = {};
	try {
		const body = await response.json();
		if (body && typeof body.error === 'object' && body.error !== null)
			detail = body.error;
	} catch {
		// Not ours: a proxy's page, or an answer that broke off.
	}
	const about = {
		status: response.status,
		code: typeof detail.code === 'string' ? detail.code : `http_${response.status}`,
		retryAfter: secondsOf(response.headers.get('retry-after')),
		requestId: response.headers.get('x-request-id') ?? undefined,
		detail,
	};
	const text = typeof detail.message === 'string' ? detail.message : `HTTP status ${response.status}`;
	const error = new (classOf(response.status))(text, about);
	error.final = response.headers.get('x-should-retry') === 'false';
	return error;
}

// Will it pass?  Then the same may be asked again, where asking twice is safe.
function passes(error) {
	if (error instanceof NetworkError)
		return true;
	return error instanceof ServerError && !error.final && error.status !== 501;
}

// --- time ----------------------------------------------------------------------------------------

// Half of the pause is chance, so that those who lost their connection together don't come back
// together.
function pause(first, failures, retryAfter) {
	const most = Math.min(BACKOFF_MAX_MS, first * 2 ** failures);
	return Math.max(most / 2 + Math.random() * most / 2, (retryAfter ?? 0) * 1000);
}

// Until then, or until the network is back.
function sleep(ms, signal) {
	return new Promise((resolve, reject) => {
		const finish = (how, value) => {
			clearTimeout(timer);
			globalThis.removeEventListener?.('online', awake);
			signal?.removeEventListener('abort', aborted);
			how(value);
		};
		const awake = () => finish(resolve);
		const aborted = () => finish(reject, signal.reason);
		const timer = setTimeout(awake, ms);
		globalThis.addEventListener?.('online', awake);
		signal?.addEventListener('abort', aborted);
		if (signal?.aborted)
			aborted();
	});
}

// A controller that `signal` aborts, too; unhook() when done.  (AbortSignal.any is too new.)
function controllerFor(signal) {
	const controller = new AbortController();
	const abort = () => controller.abort(signal.reason);
	signal?.addEventListener('abort', abort);
	if (signal?.aborted)
		abort();
	return { controller, unhook: () => signal?.removeEventListener('abort', abort) };
}

// --- server-sent events --------------------------------------------------------------------------

// The text of an event stream, in pieces of any size, to events {id, event, data}
// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
export class SseParser {
	#line = []; // pieces of the line that is not whole yet
	#size = 0; // of all that waits
	#data = [];
	#event = '';
	#id = '';
	#begun = false;
	#cr = false; // the last piece ended with CR: a LF belongs to it

	feed(text) {
		const events = [];
		if (text === '')
			return events;
		let from = 0;
		if (!this.#begun && text.charCodeAt(0) === 0xfeff)
			from = 1;
		this.#begun = true;
		if (this.#cr && text.charCodeAt(from) === 10)
			from++;
		this.#cr = false;
		const ends = /\r\n|\r|\n/g;
		ends.lastIndex = from;
		for (let end; (end = ends.exec(text)) !== null; from = ends.lastIndex) {
			this.#line.push(text.slice(from, end.index));
			this.#whole(this.#line.join(''), events);
			this.#line = [];
			this.#cr = end[0] === '\r' && ends.lastIndex === text.length;
		}
		if (from < text.length) {
			this.#line.push(text.slice(from));
			this.#size += text.length - from;
			if (this.#size > EVENT_MAX)
				throw new NetworkError('an event of the stream is too long', { code: 'protocol' });
		}
		return events;
	}

	#whole(line, events) {
		if (line === '') {
			if (this.#data.length > 0)
				events.push({ id: this.#id, event: this.#event || 'message', data: this.#data.join('\n') });
			this.#data = [];
			this.#event = '';
			this.#size = 0;
			return;
		}
		const colon = line.indexOf(':');
		if (colon === 0)
			return;
		const name = colon < 0 ? line : line.slice(0, colon);
		let value = colon < 0 ? '' : line.slice(colon + 1);
		if (value.startsWith(' '))
			value = value.slice(1);
		if (name === 'data')
			this.#data.push(value);
		else if (name === 'event')
			this.#event = value;
		else if (name === 'id' && !value.includes('\0'))
			this.#id = value;
	}
}

const utf8 = new TextEncoder();

// Where in a stream's text a reader is.  The ids are byte offsets, so what comes can be held against
// what is there: a piece that is there already is dropped, one that is not the next is not taken.
class Place {
	constructor(id) {
		this.id = id ?? '';
		this.bytes = Number.parseInt(this.id, 10) || 0;
		this.begun = false;
		this.ended = false;
		this.news = 0; // events that said something new
	}

	// The event as it is given out, or null.
	take({ id, data }) {
		let type, about;
		try {
			({ type, data: about } = JSON.parse(data));
		} catch {
			throw new NetworkError('an event of the stream is no JSON', { code: 'protocol' });
		}
		const at = Number.parseInt(id, 10);
		if (type === 'metadata') {
			if (this.begun)
				return null;
			this.begun = true;
			return { type, id, ...about };
		}
		if (type === 'token') {
			const token = this.#rest(about.token, at);
			if (token === '')
				return null;
			about = { token };
		} else if (at > this.bytes) {
			throw this.#gap();
		}
		if (type === 'done' || type === 'error')
			this.ended = true;
		this.id = id;
		this.news++;
		return { type, id, ...about };
	}

	#rest(token, end) {
		const bytes = utf8.encode(token);
		const known = Number.isNaN(end) ? 0 : this.bytes - (end - bytes.length);
		if (known < 0)
			throw this.#gap();
		if (known >= bytes.length)
			return '';
		this.bytes += bytes.length - known;
		return known === 0 ? token : new TextDecoder().decode(bytes.subarray(known));
	}

	#gap() {
		return new NetworkError('a piece of the stream is missing', { code: 'protocol' });
	}
}

// --- the client ----------------------------------------------------------------------------------

function randomKey() {
	// randomUUID is there in secure contexts only, and a gateway in one's own network is none.
	const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
	return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}

function query(about) {
	const q = new URLSearchParams();
	for (const [name, value] of Object.entries(about))
		if (value !== undefined && value !== null)
			q.set(name, value);
	const text = q.toString();
	return text === '' ? '' : `?${text}`;
}

export class Tolld {
	#base;
	#key;
	#fetch;
	#backoffMs;
	#silenceMs;

	// Can this browser read an answer while it comes?  Where not, stream() gives all of it at its end.
	static get streams() {
		return typeof ReadableStream === 'function' && typeof Response === 'function' &&
			'body' in Response.prototype;
	}

	constructor({ baseUrl = '', key = '', fetch, backoffMs = BACKOFF_MS, silenceMs = SILENCE_MS } = {}) {
		this.#base = String(baseUrl).replace(/\/+$/, '');
		this.#key = key;
		this.#backoffMs = backoffMs;
		this.#silenceMs = silenceMs;
		this.#fetch = fetch ?? ((...args) => globalThis.fetch(...args));
	}

	// What is left to spend: {balance, held, available, overdraft}.
	balance(options) {
		return this.#json('GET', '/balance', options);
	}

	// The models that this key may use, with their prices.
	async models(options) {
		return (await this.#json('GET', '/v1/models', options)).data;
	}

	// What would it cost, and would it be let in?  Takes nothing.
	preview(request, options) {
		return this.#json('POST', '/chat/preview', { ...options, body: request });
	}

	// May it start?  Reserves, and gives the id for stream().  However often a lost answer makes this
	// ask again, it is one request to the server.
	send(request, { idempotencyKey = randomKey(), ...options } = {}) {
		return this.#json('POST', '/chat/send',
			{ ...options, body: request, headers: { 'idempotency-key': idempotencyKey } });
	}

	// Question and answer in one, without a stream.  Not repeated, whatever happens.
	chat(request, options) {
		return this.#json('POST', '/api/chat', { ...options, body: request, retries: 0, timeoutMs: 600000 });
	}

	// Ends a stream now.  Its readers get `done` with `cancelled`; the answer says what it cost.
	cancel(stream, options) {
		const id = typeof stream === 'string' ? stream : stream.stream_id;
		return this.#json('DELETE', `/stream${query({ id })}`, { ...options, keepalive: true });
	}

	// The account's sessions, the newest first.
	sessions({ before, limit, ...options } = {}) {
		return this.#json('GET', `/chat/history${query({ before, limit })}`, options);
	}

	// A session's messages, the oldest first.
	history(sessionId, { before, limit, ...options } = {}) {
		if (!sessionId)
			throw new TypeError('history: no session id');
		return this.#json('GET', `/chat/history${query({ session_id: sessionId, before, limit })}`, options);
	}

	forget(sessionId, options) {
		if (!sessionId)
			throw new TypeError('forget: no session id');
		return this.#json('DELETE', `/chat/history${query({ session_id: sessionId })}`, options);
	}

	// Runs a stream, or comes to one that runs or has ended: its events, to the last, which is `done`
	// or `error`.  Connections break and come back unseen, but for onState.  `signal` cancels the
	// stream; with cancelOnAbort false, and by leaving the loop, one only stops reading it.
	async *stream(stream, {
		signal, cancelOnAbort = true, lastEventId, onState = () => {}, giveUpMs = GIVE_UP_MS,
	} = {}) {
		const id = typeof stream === 'string' ? stream : stream?.stream_id;
		if (!id)
			throw new TypeError('stream: no stream id');
		const place = new Place(lastEventId);
		const cancel = () => cancelOnAbort && this.cancel(id).catch(() => {});
		let failures = 0, since = 0;

		signal?.addEventListener('abort', cancel);
		try {
			if (signal?.aborted) {
				cancel();
				throw signal.reason;
			}
			while (!place.ended) {
				const before = place.news;
				let failure;
				try {
					for await (const event of this.#events(id, place, signal, onState)) {
						yield event;
						if (place.ended)
							return;
					}
					failure = new NetworkError('the stream broke off', { code: 'network' });
				} catch (e) {
					if (signal?.aborted || !(passes(e) || e instanceof LimitError))
						throw e;
					failure = e;
				}
				if (place.ended)
					return;
				if (place.news > before)
					failures = 0;
				if (failures === 0)
					since = Date.now();
				if (Date.now() - since > giveUpMs)
					throw failure;
				const ms = pause(this.#backoffMs, failures++, failure.retryAfter);
				onState({ state: 'waiting', ms, failures, error: failure });
				await sleep(ms, signal);
			}
		} finally {
			signal?.removeEventListener('abort', cancel);
		}
	}

	// The events of one connection that are news.
	async *#events(id, place, signal, onState) {
		const { controller, unhook } = controllerFor(signal);
		let timer;
		const waitMs = Tolld.streams ? this.#silenceMs : 10 * CALL_MS;
		const listen = () => {
			timer = setTimeout(() => controller.abort(
				new NetworkError('the stream fell silent', { code: 'network' })), waitMs);
		};
		try {
			onState({ state: 'connecting' });
			listen();
			const response = await this.#ask(`/stream${query({ id })}`, {
				headers: place.id === '' ? {} : { 'last-event-id': place.id },
				signal: controller.signal,
			});
			if (response.status === 204) {
				place.ended = true;
				return;
			}
			if (!response.ok)
				throw await errorOf(response);
			if (!/^text\/event-stream\b/i.test(response.headers.get('content-type') ?? ''))
				throw new NetworkError('something else answered', { code: 'protocol' });
			onState({ state: 'open' });
			const parser = new SseParser();
			for await (const text of pieces(response)) {
				clearTimeout(timer);
				for (const raw of parser.feed(text)) {
					const event = place.take(raw);
					if (event !== null)
						yield event;
					if (place.ended)
						return;
				}
				listen();
			}
		} catch (e) {
			throw signal?.aborted ? signal.reason : controller.signal.aborted ? controller.signal.reason : e;
		} finally {
			clearTimeout(timer);
			unhook();
			controller.abort();
		}
	}

	// A call whose answer is JSON; asked again while that is safe and of use.
	async #json(method, path, { body, headers, signal, retries = RETRIES, timeoutMs = CALL_MS, keepalive } = {}) {
		for (let failures = 0;; failures++) {
			const { controller, unhook } = controllerFor(signal);
			const timer = setTimeout(() => controller.abort(
				new NetworkError('no answer in time', { code: 'network' })), timeoutMs);
			let failure;
			try {
				const response = await this.#ask(path, {
					method, keepalive, signal: controller.signal,
					headers: {
						...(this.#key ? { authorization: `Bearer ${this.#key}` } : {}),
						...(body === undefined ? {} : { 'content-type': 'application/json' }),
						...headers,
					},
					body: body === undefined ? undefined : JSON.stringify(body),
				});
				if (!response.ok)
					throw await errorOf(response);
				return await jsonOf(response);
			} catch (e) {
				failure = controller.signal.aborted ? controller.signal.reason : e;
			} finally {
				clearTimeout(timer);
				unhook();
			}
			if (signal?.aborted || !passes(failure) || failures >= retries)
				throw failure;
			await sleep(pause(this.#backoffMs, failures, failure.retryAfter), signal);
		}
	}

	async #ask(path, init) {
		try {
			return await this.#fetch(this.#base + path,
				{ ...init, cache: 'no-store', credentials: 'omit', redirect: 'error', referrerPolicy: 'no-referrer' });
		} catch (cause) {
			if (init.signal.aborted)
				throw init.signal.reason;
			// A TypeError is all that fetch says of a refused connection, a name that is not there, CORS.
			const error = new NetworkError('no connection', { code: 'network' });
			error.cause = cause;
			throw error;
		}
	}
}

// An answer that broke off, or that is no JSON, is as good as none: what it was for is asked again.
async function jsonOf(response) {
	try {
		return response.status === 204 ? {} : await response.json();
	} catch (cause) {
		const error = new NetworkError('half an answer', { status: response.status, code: 'network' });
		error.cause = cause;
		throw error;
	}
}

// A body's text as it comes, no character torn.
async function *pieces(response) {
	if (!Tolld.streams || !response.body) {
		yield await whole(response);
		return;
	}
	const reader = response.body.getReader();
	const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
	try {
		for (;;) {
			let piece;
			try {
				piece = await reader.read();
			} catch (cause) {
				throw broken(cause);
			}
			if (piece.done)
				return;
			yield decoder.decode(piece.value, { stream: true });
		}
	} finally {
		reader.cancel().catch(() => {});
	}
}

async function whole(response) {
	try {
		return await response.text();
	} catch (cause) {
		throw broken(cause);
	}
}

function broken(cause) {
	const error = new NetworkError('the stream broke off', { code: 'network' });
	error.cause = cause;
	return error;
}
