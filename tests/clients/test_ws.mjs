// The WebSocket at /ws/chat/{account} with npm's `ws`, as a browser would use it.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';

import { at, balance, cancelled, model, require, until } from './tolld.mjs';

const WebSocket = require('ws');
const url = (account = 'rich') => `${at.url.replace('http', 'ws')}/ws/chat/${account}`;

// A connection whose messages are waited for one by one.
async function open({ protocols = ['tolld', `bearer.${at.keys.rich}`], options, account } = {}) {
	const ws = new WebSocket(url(account), protocols, options);
	const come = [];
	ws.on('message', (data, binary) => {
		assert.equal(binary, false);
		come.push(JSON.parse(data));
		ws.emit('come');
	});
	ws.next = async () => {
		while (come.length === 0)
			await once(ws, 'come');
		return come.shift();
	};
	ws.answer = async () => {
		let text = '';
		for (;;) {
			const m = await ws.next();
			if (m.type !== 'chunk')
				return { text, end: m };
			text += m.content;
		}
	};
	ws.ask = (fields) => ws.send(JSON.stringify({ question: 'hello there', ...fields }));
	ws.closed = async () => (await once(ws, 'close'))[0];
	await once(ws, 'open');
	return ws;
}

test('answers several questions in turn', async () => {
	const before = (await balance(at.keys.rich)).balance;
	const ws = await open();
	assert.equal(ws.protocol, 'tolld');
	assert.equal(ws.extensions, '');
	ws.ask({ model: model('ten') });
	const { text, end } = await ws.answer();
	assert.equal(text, at.texts.ten);
	assert.equal(end.finish_reason, 'stop');
	assert.equal(end.usage.completion_tokens, 10);
	ws.ask({ model: model('ten', 'anthropic'), session_id: end.session_id });
	const second = await ws.answer();
	assert.equal(second.text, at.texts.ten);
	assert.equal(second.end.session_id, end.session_id);
	assert.ok(Math.abs(before - end.cost - second.end.cost - second.end.balance) < 1e-9);
	ws.close(1000, 'bye');
	assert.equal(await ws.closed(), 1000);
});

test('answers pings, and takes a message in fragments', async () => {
	const ws = await open({ protocols: [], options: {
		headers: { authorization: `Bearer ${at.keys.rich}` }, origin: at.url } });
	ws.ping('are you there');
	assert.equal(String((await once(ws, 'pong'))[0]), 'are you there');
	ws.send(`{"model":"${model('ten')}",`, { fin: false });
	ws.ping();
	ws.send('"question":', { fin: false });
	ws.send('"hello there"}', { fin: true });
	assert.equal((await ws.answer()).text, at.texts.ten);
	ws.close();
	assert.equal(await ws.closed(), 1005);
});

test('cancels', async () => {
	const ws = await open();
	const seen = await cancelled();
	ws.ask({ model: model('slow') });
	assert.equal((await ws.next()).type, 'chunk');
	ws.send('{"type":"cancel"}');
	assert.equal((await ws.answer()).end.finish_reason, 'cancelled');
	await until(async () => await cancelled() > seen, 'the provider to see it');
	ws.close();
});

test('ends the call when it leaves', async () => {
	const ws = await open();
	const seen = await cancelled();
	ws.ask({ model: model('slow') });
	assert.equal((await ws.next()).type, 'chunk');
	ws.terminate();
	await until(async () => await cancelled() > seen, 'the provider to see it');
});

test('says what went wrong', async () => {
	const ws = await open();
	ws.ask({ model: model('busy') });
	const m = await ws.next();
	assert.equal(m.type, 'error');
	assert.equal(m.code, 'overloaded');
	ws.ask({ model: 'none' });
	assert.equal((await ws.next()).code, 'model_not_found');
	ws.send(Buffer.from('x'));
	assert.equal(await ws.closed(), 1003);
	const empty = await open({ protocols: ['tolld', `bearer.${at.keys.empty}`], account: 'empty' });
	empty.ask({ model: model('ten') });
	assert.equal((await empty.next()).code, 'insufficient_credit');
	empty.send('x'.repeat((1 << 20) + 1));
	assert.equal(await empty.closed(), 1009);
});

test('lets nobody else in', async () => {
	const status = async (protocols, options, account) => {
		const ws = new WebSocket(url(account), protocols, options);
		const [, response] = await once(ws, 'unexpected-response');
		ws.on('error', () => {});
		ws.terminate();
		return response.statusCode;
	};
	const good = ['tolld', `bearer.${at.keys.rich}`];
	assert.equal(await status(['tolld']), 401);
	assert.equal(await status(['tolld', 'bearer.nonsense']), 401);
	assert.equal(await status(good, {}, 'empty'), 403);
	assert.equal(await status(good, { origin: 'https://evil.example' }), 403);
});
