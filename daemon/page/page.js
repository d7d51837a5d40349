// The page: who signs in, which conversation is open, and the answer that is on its way.
//
// What is drawn is in talk.js, composer.js and sidebar.js; what is asked of the server goes through
// tolld.js.  Here is what joins them.
import { Composer } from './composer.js';
import { $, store } from './dom.js';
import { Sidebar, confirm } from './sidebar.js';
import { Speaker, Talk } from './talk.js';
import { KeyError, NetworkError, NotFoundError, ScopeError, Tolld, TolldError } from './tolld.js';
import { credits, fill, has, language, t, why } from './words.js';

const KEPT_MAX = 500000; // characters of a conversation that is kept in the tab
const LOW_ANSWERS = 3; // less credit than for so many like the last one: say so

const base = new URL('.', document.baseURI).href;

// --- the parts -----------------------------------------------------------------------------------

let tolld = null;
let models = [];
let session = blank();
let run = null; // the answer under way: {stream, answer, controller, question, limit, stopping}
let opening = null; // while a conversation that there was before is fetched: what is told when it is there
let keepsHistory = null; // does the server? null: not known yet
let listed = { sessions: [], next: null };
let lists = 0; // asked for, or outdated

const talk = new Talk();
const composer = new Composer({ onsend: ask, onstop: stop, preview, onfault: signedOut });
const sidebar = new Sidebar({
	onforget: forget, onmore: moreSessions, onleave: leave,
	onnew: () => {
		openNone();
		composer.focus();
	},
});
const others = typeof BroadcastChannel === 'function' ? new BroadcastChannel('tolld') : null;

function blank() {
	return { id: null, title: '', turns: [], before: null };
}

// --- signing in and out --------------------------------------------------------------------------

function door(fault = '', key = '') {
	stopReading();
	tolld = null;
	$('app').hidden = true;
	$('door').hidden = false;
	$('door-fault').textContent = fault;
	$('key').value = key;
	$('enter').disabled = false;
	$('key').focus();
}

async function enter(key, keep) {
	const client = new Tolld({ baseUrl: base, key });
	$('enter').disabled = true;
	try {
		const [books, list] = await Promise.all([client.balance({ retries: 1 }), client.models({ retries: 1 })]);
		tolld = client;
		models = list;
		sidebar.credit(books);
		await chooseModel();
	} catch (e) {
		if (!(e instanceof TolldError))
			throw e;
		const known = e instanceof KeyError ? t('door.wrong') : e instanceof ScopeError ? t('door.scope')
			: e instanceof NetworkError ? t('door.unreachable') : why(e);
		door(known, key);
		return;
	}
	store.set(keep ? 'localStorage' : 'sessionStorage', 'key', key);
	$('door').hidden = true;
	$('app').hidden = false;
	await open(sessionOf(location.hash));
	composer.focus();
}

function forgetKey() {
	for (const kind of ['sessionStorage', 'localStorage'])
		store.set(kind, 'key', null);
	keepTab(null);
	store.set('sessionStorage', 'open', null);
}

function leave() {
	forgetKey();
	history.replaceState(null, '', location.pathname + location.search);
	location.reload(); // nothing of the conversation stays in this document
}

// A key that is not good any more: back to the door.
function signedOut(error) {
	if (!(error instanceof KeyError))
		return false;
	forgetKey();
	door(t('door.expired'));
	return true;
}

// --- models --------------------------------------------------------------------------------------

// The one chosen here before, else the service's own, else the first.
async function chooseModel() {
	const names = models.map((m) => m.id);
	let model = store.get('localStorage', 'model');
	if (!names.includes(model)) {
		try {
			model = (await tolld.preview({ message: '?' }, { retries: 0 })).model;
		} catch (e) {
			if (e instanceof ScopeError)
				throw e;
			model = names[0]; // there is no default
		}
	}
	$('model').replaceChildren(...names.map((n) => new Option(n, n)));
	$('model').value = model;
	composer.limits(most());
}

function most() {
	return models.find((m) => m.id === $('model').value)?.max_completion_tokens ?? 0;
}

// --- what is asked -------------------------------------------------------------------------------

// The server adds a session's past itself where it keeps one; where not, it is sent along.
function request(text, limit) {
	const about = { model: $('model').value };
	if (keepsHistory === false && session.turns.length > 0)
		about.messages = [...session.turns.filter((m) => m.content !== ''), { role: 'user', content: text }];
	else
		about.message = text;
	if (session.id !== null)
		about.session_id = session.id;
	if (limit > 0)
		about.max_tokens = limit;
	return about;
}

async function preview(text, limit, signal) {
	const p = await tolld.preview(request(text, limit), { signal, retries: 1 });
	sidebar.credit(p);
	return p;
}

async function ask(text) {
	// It goes behind what was said before; what is written stays where it is until then.
	const into = session;
	while (opening !== null)
		await opening;
	if (session !== into || run !== null)
		return;
	const limit = Math.min(composer.limit || Infinity, most() || Infinity);
	const about = request(text, composer.limit);
	const question = talk.question(text);
	const answer = newAnswer(text);
	const here = { answer, question: text, limit: Number.isFinite(limit) ? limit : 0, stream: null, controller: new AbortController() };

	run = here;
	composer.text = '';
	composer.unhint();
	composer.busy(true);
	talk.toEnd();
	answer.run(here.limit);
	try {
		if (Tolld.streams || !await whole(here, about))
			await begin(here, about);
	} catch (e) {
		if (run !== here)
			return; // another conversation was opened meanwhile
		run = null;
		composer.busy(false);
		showState('');
		if (!(e instanceof TolldError))
			throw e;
		// Nothing was started: the question goes back to where it was written.
		question.remove();
		answer.element.remove();
		talk.hello();
		if (composer.text === '')
			composer.text = text;
		if (!signedOut(e) && e.code !== 'cancelled')
			composer.refused(e);
	}
}

async function begin(here, about) {
	const sent = await tolld.send(about, { idempotencyKey: sendKey(about), signal: here.controller.signal });
	unsent = null;
	if (run !== here)
		return;
	session.turns.push({ role: 'user', content: here.question });
	here.stream = sent.stream_id;
	adopt(sent.session_id, here.question);
	sidebar.credit({ available: sent.available });
	store.set('sessionStorage', 'open', JSON.stringify({
		stream: here.stream, session: session.id, question: here.question, limit: here.limit,
	}));
	keepTab();
	tell({ type: 'sent', stream: here.stream, question: here.question, limit: here.limit });
	if (here.stopping)
		cancel(here);
	await follow(here);
}

// The same question sent again, because nobody knew whether it had arrived, is the same request.
let unsent = null;

function sendKey(about) {
	const body = JSON.stringify(about);
	if (unsent?.body !== body) {
		const bytes = crypto.getRandomValues(new Uint8Array(16));
		unsent = { body, key: Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('') };
	}
	return unsent.key;
}

// No streams in this browser: all at once.  False: the server has no such call either.
async function whole(here, about) {
	let body;
	try {
		body = await tolld.chat(about, { signal: here.controller.signal });
	} catch (e) {
		if (e instanceof NotFoundError || e.status === 405 || e.status === 501)
			return false;
		throw e;
	}
	if (run !== here)
		return true;
	session.turns.push({ role: 'user', content: here.question });
	adopt(body.session_id, here.question);
	here.answer.add(body.message);
	finish(here, { ...body, type: 'done', finish_reason: body.finish_reason ?? 'stop' });
	return true;
}

// A conversation gets its id with its first answer.
function adopt(id, question) {
	if (session.id === null && id) {
		session.id = id;
		session.title = question.trim().split('\n')[0];
		history.replaceState(null, '', `#s=${encodeURIComponent(id)}`);
		titled();
	}
	list();
}

// --- the answer ----------------------------------------------------------------------------------

function newAnswer(question) {
	return talk.answer({
		speaker: new Speaker(),
		onretry: () => {
			if (run === null)
				ask(question);
		},
	});
}

// Reads a stream to its end, however often the connection breaks.
async function follow(here) {
	try {
		for await (const e of tolld.stream(here.stream, {
			signal: here.controller.signal, cancelOnAbort: false, onState: (s) => run === here && connection(s),
		})) {
			if (run !== here)
				return;
			if (e.type === 'token') {
				here.answer.add(e.token);
			} else if (e.type === 'meter') {
				here.answer.meter(e);
				sidebar.credit({ available: e.available });
			} else if (e.type === 'done' || e.type === 'error') {
				finish(here, e);
			}
		}
		if (run === here)
			finish(here, { type: 'done', finish_reason: 'stop' });
	} catch (e) {
		if (run !== here)
			return;
		if (!(e instanceof TolldError))
			throw e;
		finish(here, { type: 'error', error: e });
	}
}

function finish(here, e) {
	run = null;
	session.turns.push({ role: 'assistant', content: here.answer.text });
	here.answer.end({
		reason: shortOf(e) ?? e.finish_reason, error: e.error, cost: e.cost, tokens: e.usage?.completion_tokens,
		limit: here.limit, owed: e.error?.code === 'journal_unavailable', aloud: true,
		retry: e.type === 'error' || e.finish_reason !== 'stop',
	});
	store.set('sessionStorage', 'open', null);
	composer.busy(false);
	composer.stopping(false);
	showState('');
	keepTab();
	tell({ type: 'changed' });
	books(e);
	list();
	composer.refresh();
}

// What a cut answer lacked, if it was not simply credit.
function shortOf(e) {
	return e.short_of && e.short_of !== 'credit' && has(`end.${e.short_of}`) ? e.short_of : undefined;
}

// What is left, and whether it is time to say so.
async function books(e) {
	try {
		const b = await tolld.balance();
		sidebar.credit(b);
		if (shortOf(e))
			composer.hint(t(`hint.${shortOf(e)}`), 'low');
		else if (e.finish_reason === 'credit' || b.available <= 0)
			composer.hint(t('hint.empty'), 'low');
		else if (e.cost > 0 && b.available < LOW_ANSWERS * e.cost)
			composer.hint(t('hint.low', { available: credits(b.available, true) }), 'low');
		else
			composer.unhint('low');
	} catch (error) {
		if (!(error instanceof TolldError))
			throw error;
		signedOut(error);
	}
}

async function stop() {
	if (run === null || run.stopping)
		return;
	const here = run;
	here.stopping = true;
	composer.stopping(true);
	await cancel(here);
}

async function cancel(here) {
	if (here.stream === null) {
		if (!Tolld.streams)
			here.controller.abort(new NetworkError('stopped', { code: 'cancelled' }));
		return; // it is cancelled as soon as it has a name
	}
	try {
		await tolld.cancel(here.stream); // `done` comes by the stream itself
	} catch (e) {
		if (!(e instanceof TolldError))
			throw e;
		here.stopping = false;
		if (run === here)
			composer.stopping(false);
	}
}

// Leaves the stream to itself: it goes on for a while without a reader, and can be come back to.
function stopReading() {
	run?.controller.abort(new NetworkError('left', { code: 'left' }));
	run = null;
	composer.busy(false);
	composer.stopping(false);
	showState('');
}

// --- the connection ------------------------------------------------------------------------------

function showState(kind, words = '') {
	if ($('state').textContent !== words)
		$('state').textContent = words;
	$('state').className = kind;
}

function connection({ state, ms }) {
	if (!navigator.onLine)
		showState('waiting', t('state.offline'));
	else if (state === 'waiting')
		showState('waiting', t('state.waiting', { seconds: Math.max(1, Math.round(ms / 1000)) }));
	else
		showState(state, t(`state.${state}`));
}

addEventListener('offline', () => showState('waiting', t('state.offline')));
addEventListener('online', () => showState('', ''));

// --- conversations -------------------------------------------------------------------------------

function sessionOf(hash) {
	const m = /^#s=([\w%.-]{1,128})$/.exec(hash);
	try {
		return m ? decodeURIComponent(m[1]) : null;
	} catch {
		return null;
	}
}

function titled() {
	$('title').textContent = session.title || t(session.id ? 'side.untitled' : 'side.new');
	document.title = session.title ? `${session.title} – ${t('page.title')}` : t('page.title');
}

function openNone() {
	if (location.hash === '')
		open(null);
	else
		location.hash = ''; // and open() by that
}

// Shows a conversation, and goes on with its answer if one is on its way.
async function open(id) {
	stopReading();
	composer.unhint();
	session = { ...blank(), id };
	talk.clear();
	titled();
	const here = session;
	const fetched = fetchInto(here);
	opening = id === null ? null : fetched; // a new one has nothing to wait for
	let streaming;
	try {
		streaming = await fetched;
	} finally {
		if (opening === fetched)
			opening = null;
	}
	// In a new one something may have been asked meanwhile.
	if (session !== here || run !== null || (id === null && here.id !== null))
		return;
	titled();
	talk.hello();
	streaming ??= kept(here);
	if (streaming !== null)
		resume(streaming);
}

// What there is of a conversation; the stream of an answer that is under way, or null.
async function fetchInto(here) {
	const { id } = here;
	await list();
	if (id !== null && keepsHistory)
		return load(here);
	if (id !== null && keepsHistory === false)
		restoreTab(here);
	return null;
}

// An answer that was under way in this tab when it was loaded anew.
function kept(here) {
	let open;
	try {
		open = JSON.parse(store.get('sessionStorage', 'open'));
	} catch {
		open = null;
	}
	// Where there is a history it knows better.
	return open?.stream && open.session === here.id && !here.loaded ? open : null;
}

async function resume({ stream, session: id, question, limit, shown = false }) {
	if (session.id === null && id)
		adopt(id, question);
	if (!shown && session.turns.at(-1)?.content !== question) {
		talk.question(question);
		session.turns.push({ role: 'user', content: question });
	}
	const answer = newAnswer(question);
	const here = { answer, question, limit: limit ?? most(), stream, controller: new AbortController() };
	run = here;
	composer.busy(true);
	answer.run(here.limit);
	talk.toEnd();
	await follow(here);
}

function draw(m, question, before) {
	if (m.role === 'user') {
		talk.question(m.content, before);
		return;
	}
	const answer = talk.answer({
		onretry: () => {
			if (run === null)
				ask(question);
		},
	}, before);
	answer.text = m.content;
	const reason = shortOf(m) ?? { cut: 'credit', cancelled: 'cancelled', streaming: 'running' }[m.status] ?? m.finish_reason ?? 'stop';
	answer.end({
		reason, error: m.status === 'failed' ? { code: 'failed' } : null, cost: m.status === 'streaming' ? undefined : m.cost,
		tokens: m.tokens, retry: before === null && reason !== 'stop',
	});
}

// The latest messages of a conversation; the stream of an answer that is under way, or null.
async function load(here) {
	let page;
	try {
		page = await tolld.history(here.id);
	} catch (e) {
		if (!(e instanceof TolldError))
			throw e;
		if (signedOut(e) || session !== here)
			return null;
		if (e instanceof NotFoundError || e.status === 400) // forgotten, another account's, or none at all
			openNone();
		else
			composer.hint(t('fault.load', { why: why(e) }), 'load');
		return null;
	}
	if (session !== here)
		return null;
	here.loaded = true;
	here.title ||= page.title ?? '';
	const last = page.messages.at(-1);
	const runs = last?.role === 'assistant' && last.status === 'streaming' && last.stream_id;
	show(here, runs ? page.messages.slice(0, -1) : page.messages, null);
	pager(here, page);
	const model = models.find((m) => m.id === last?.model);
	if (model) { // it goes on with the one that it was held with
		$('model').value = model.id;
		composer.limits(most());
	}
	if (!runs)
		return null;
	const question = here.turns.findLast?.((m) => m.role === 'user')?.content ?? '';
	return { stream: last.stream_id, session: here.id, question, limit: model?.max_completion_tokens ?? 0, shown: true };
}

function show(here, messages, before) {
	let question = '';
	for (const m of messages) {
		draw(m, question, before);
		if (m.role === 'user')
			question = m.content;
	}
	const turns = messages.map(({ role, content }) => ({ role, content }));
	here.turns = before === null ? turns : [...turns, ...here.turns];
}

function pager(here, page) {
	talk.earlier(page.next ? async () => {
		try {
			const earlier = await tolld.history(here.id, { before: page.next });
			if (session !== here)
				return;
			talk.earlier(null);
			show(here, earlier.messages, talk.list.firstElementChild);
			pager(here, earlier);
		} catch (e) {
			if (!(e instanceof TolldError))
				throw e;
			if (!signedOut(e))
				composer.hint(t('fault.load', { why: why(e) }), 'load');
		}
	} : null);
}

// The list at the side.  A server that keeps no history has none: then the page keeps this one.
async function list() {
	const mine = ++lists;
	if (keepsHistory !== false) {
		try {
			const page = await tolld.sessions();
			keepsHistory = true;
			// What was asked earlier may come later, and knows nothing of what happened since.
			if (mine === lists)
				listed = joined(page);
		} catch (e) {
			if (!(e instanceof TolldError))
				throw e;
			if (e instanceof NotFoundError || e.status === 405 || e.status === 501)
				keepsHistory = false;
			else
				signedOut(e);
		}
	}
	rows();
}

// A new first page in front of what further pages had.
function joined(page) {
	const last = page.sessions.at(-1);
	const ids = new Set(page.sessions.map((s) => s.id));
	const rest = last ? listed.sessions.filter((s) => s.updated_at <= last.updated_at && !ids.has(s.id)) : [];
	return page.next === null || rest.length === 0 ? page : { sessions: [...page.sessions, ...rest], next: listed.next };
}

function rows() {
	if (tolld === null)
		return;
	const known = (listed.sessions ?? []).map((s) => ({
		id: s.id, title: s.title, time: s.updated_at * 1000, running: s.id === session.id && run !== null,
	}));
	if (session.id !== null && !known.some((s) => s.id === session.id))
		known.unshift({ id: session.id, title: session.title, running: run !== null });
	const note = keepsHistory === false ? t('side.off') : known.length === 0 ? t('side.none') : '';
	sidebar.sessions(known, session.id, { more: Boolean(listed.next), note });
	if (session.id !== null && session.title === '') {
		session.title = known.find((s) => s.id === session.id)?.title ?? '';
		titled();
	}
}

async function moreSessions() {
	try {
		const mine = lists;
		const page = await tolld.sessions({ before: listed.next });
		if (mine !== lists)
			return;
		listed = { ...page, sessions: [...listed.sessions, ...page.sessions] };
		rows();
	} catch (e) {
		if (!(e instanceof TolldError))
			throw e;
		signedOut(e);
	}
}

async function forget(s) {
	const title = s.title || t('side.untitled');
	if (!await confirm(t('forget.title'), t('forget.text', { title }), t('forget.yes')))
		return;
	try {
		if (keepsHistory)
			await tolld.forget(s.id);
	} catch (e) {
		if (!(e instanceof TolldError))
			throw e;
		if (!(e instanceof NotFoundError)) {
			if (!signedOut(e))
				composer.hint(t('forget.failed', { why: why(e) }), 'forget');
			return;
		}
	}
	lists++;
	listed.sessions = (listed.sessions ?? []).filter((x) => x.id !== s.id);
	tell({ type: 'forgot', forgot: s.id });
	new Speaker().say(t('forget.done'));
	if (s.id === session.id) {
		keepTab(null);
		store.set('sessionStorage', 'open', null);
		openNone();
	} else {
		rows();
	}
	$('new').focus();
}

// --- without a history: this tab remembers its own -----------------------------------------------

function keepTab(what = session) {
	if (keepsHistory)
		return;
	const text = what && JSON.stringify({ id: what.id, title: what.title, turns: what.turns });
	store.set('sessionStorage', 'talk', text && text.length <= KEPT_MAX ? text : null);
}

function restoreTab(here) {
	let kept;
	try {
		kept = JSON.parse(store.get('sessionStorage', 'talk'));
	} catch {
		kept = null;
	}
	if (!kept || here.id === null || kept.id !== here.id)
		return;
	here.title = kept.title;
	show(here, kept.turns.map((m) => ({ ...m, status: 'complete' })), null);
}

// --- other tabs ----------------------------------------------------------------------------------

function tell(about) {
	others?.postMessage({ ...about, session: session.id });
}

others?.addEventListener('message', ({ data }) => {
	if (tolld === null)
		return;
	if (data.type === 'sent' && data.session === session.id && run === null)
		follows(data);
	else if (data.type === 'forgot' && data.forgot === session.id)
		openNone();
	else
		list();
});

// Another tab asked something in the conversation that is shown here.
async function follows(sent) {
	if (opening === null || !keepsHistory) {
		resume(sent);
		return;
	}
	// What is being fetched may have been read before it was asked, or after.
	const here = session;
	while (opening !== null)
		await opening;
	if (session === here && run === null)
		open(here.id);
}

// What came while nobody looked: from another tab, or from the phone.
document.addEventListener('visibilitychange', async () => {
	if (document.visibilityState !== 'visible' || tolld === null || run !== null || session.id === null || !keepsHistory)
		return;
	const here = session;
	try {
		const page = await tolld.history(here.id);
		if (session === here && run === null &&
		    (page.messages.at(-1)?.status === 'streaming' || page.messages.at(-1)?.content !== here.turns.at(-1)?.content))
			await open(here.id);
	} catch (e) {
		if (!(e instanceof TolldError))
			throw e;
		signedOut(e);
	}
});

// --- begin ---------------------------------------------------------------------------------------

document.documentElement.lang = language;
fill(document);
titled();
$('model').addEventListener('change', () => {
	store.set('localStorage', 'model', $('model').value);
	composer.limits(most());
	composer.refresh();
});
$('skip').addEventListener('click', (e) => {
	e.preventDefault(); // the hash is the conversation's
	$('question').focus();
});
$('door-form').addEventListener('submit', (e) => {
	e.preventDefault();
	enter($('key').value.trim(), $('keep').checked);
});
addEventListener('hashchange', () => {
	if (tolld !== null && sessionOf(location.hash) !== session.id)
		open(sessionOf(location.hash));
});
addEventListener('keydown', (e) => {
	if (e.key !== 'Escape' || e.isComposing || e.defaultPrevented || $('confirm'))
		return;
	if (sidebar.isOpen)
		sidebar.close();
	else
		stop();
});

const stored = store.get('sessionStorage', 'key') ?? store.get('localStorage', 'key');
if (stored)
	enter(stored, store.get('localStorage', 'key') !== null);
else
	door();
