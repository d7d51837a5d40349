// The Anthropic SDK, unchanged but for its base URL and key.
import assert from 'node:assert/strict';
import test from 'node:test';

import { at, balance, cancelled, counting, DIALECTS, HELLO, model, require, until } from './tolld.mjs';

const Anthropic = require('@anthropic-ai/sdk');
const client = (key = at.keys.rich, options = {}) =>
	new Anthropic({ apiKey: key, baseURL: at.url, ...options });
const WEATHER = {
	name: 'weather', description: 'The weather in a city',
	input_schema: {
		type: 'object', required: ['city'],
		properties: { city: { type: 'string' }, days: { type: 'integer' } },
	},
};

for (const dialect of DIALECTS) {
	test(`streams, from ${dialect}`, async () => {
		const stream = client().messages.stream({
			model: model('ten', dialect), max_tokens: 100, system: 'be brief', messages: HELLO,
		});
		let text = '';
		stream.on('text', (t) => { text += t; });
		const message = await stream.finalMessage();
		assert.equal(text, at.texts.ten);
		assert.equal(message.content[0].text, at.texts.ten);
		assert.equal(message.stop_reason, 'end_turn');
		assert.equal(message.usage.output_tokens, 10);
		assert.ok(message.usage.input_tokens > 0);
	});

	test(`answers whole, from ${dialect}`, async () => {
		const message = await client().messages.create({
			model: model('ten', dialect), max_tokens: 100, messages: HELLO,
		});
		assert.equal(message.type, 'message');
		assert.equal(message.role, 'assistant');
		assert.deepEqual(message.content.map((c) => [c.type, c.text]), [['text', at.texts.ten]]);
		assert.equal(message.usage.output_tokens, 10);
	});

	test(`calls a function and answers its result, from ${dialect}`, async () => {
		for (const whole of [true, false]) {
			const body = {
				model: model('weather', dialect), max_tokens: 100, messages: HELLO,
				tools: [WEATHER], tool_choice: { type: 'auto' },
			};
			const message = whole ? await client().messages.create(body)
				: await client().messages.stream(body).finalMessage();
			const call = message.content.find((c) => c.type === 'tool_use');
			assert.equal(message.stop_reason, 'tool_use');
			assert.equal(call.name, 'weather');
			assert.deepEqual(call.input, { city: 'Paris', days: 3 });
			const second = await client().messages.create({
				model: model('ten', dialect), max_tokens: 100, tools: [WEATHER],
				messages: [...HELLO, { role: 'assistant', content: message.content }, {
					role: 'user',
					content: [{ type: 'tool_result', tool_use_id: call.id, content: 'sun' }],
				}],
			});
			assert.equal(second.content[0].text, at.texts.ten);
		}
	});

	test(`stops at its limit, from ${dialect}`, async () => {
		const message = await client().messages.create({
			model: model('ten', dialect), max_tokens: 4, messages: HELLO,
		});
		assert.equal(message.stop_reason, 'max_tokens');
	});

	test(`leaves in mid-answer, from ${dialect}`, async () => {
		const before = await cancelled();
		const stream = client().messages.stream({
			model: model('slow', dialect), max_tokens: 1000, messages: HELLO,
		});
		let pieces = 0;
		stream.on('text', () => { if (++pieces === 3) stream.abort(); });
		await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
		await until(async () => await cancelled() > before, 'the provider to be left');
		await until(async () => (await balance(at.keys.rich)).held === 0, 'the hold to be settled');
	});

	test(`hears of a failure in mid-answer, from ${dialect}`, async () => {
		let text = '';
		const stream = client().messages.stream({
			model: model('broken', dialect), max_tokens: 100, messages: HELLO,
		});
		stream.on('text', (t) => { text += t; });
		await assert.rejects(stream.done(), (e) => e instanceof Anthropic.APIError &&
			e.type === 'api_error' && e.error.error.code === 'upstream_error' && e.requestID !== null);
		assert.equal(text, at.texts.five);
	});
}

test('thoughts are a block of their own', async () => {
	const message = await client().messages.stream({
		model: model('thinking', 'anthropic'), max_tokens: 2000, messages: HELLO,
		thinking: { type: 'enabled', budget_tokens: 1024 },
	}).finalMessage();
	assert.deepEqual(message.content.map((c) => c.type), ['thinking', 'text']);
	assert.equal(message.content[0].thinking, 'hm');
});

test('models are listed', async () => {
	const names = [];
	for await (const m of client().models.list())
		names.push(m.id);
	assert.ok(names.includes(model('ten', 'anthropic')));
	assert.equal((await client().models.retrieve(model('ten'))).id, model('ten'));
	await assert.rejects(client().models.retrieve('none'), Anthropic.NotFoundError);
});

test('tokens are counted', async () => {
	for (const dialect of DIALECTS) {
		const r = await client().messages.countTokens({
			model: model('ten', dialect), messages: HELLO,
		});
		assert.ok(r.input_tokens > 0);
	}
});

test('errors have their classes, and no credit is not tried again', async () => {
	const ask = (key, more, options) => client(key, options).messages.create({
		model: model('ten', 'anthropic'), max_tokens: 10, messages: HELLO, ...more,
	});
	const f = counting();
	await assert.rejects(ask(at.keys.empty, {}, { fetch: f, maxRetries: 3 }),
		(e) => e instanceof Anthropic.APIError && e.status === 402 && e.error.type === 'error');
	assert.equal(f.calls, 1);
	await assert.rejects(ask('tk-wrong'),
		(e) => e instanceof Anthropic.AuthenticationError && e.requestID !== null &&
			e.type === 'authentication_error');
	await assert.rejects(ask(at.keys.rich, { model: 'none' }), Anthropic.NotFoundError);
	await assert.rejects(ask(at.keys.rich, { messages: 'hello' }),
		(e) => e instanceof Anthropic.BadRequestError && /messages/.test(e.message));
	await assert.rejects(ask(at.keys.rich, { max_tokens: undefined }), Anthropic.BadRequestError);
});

test('an answer that credit cannot pay ends as max_tokens', async () => {
	const message = await client(at.keys.poor_anthropic).messages.stream({
		model: model('thousand', 'anthropic'), max_tokens: 1000, messages: HELLO,
	}).finalMessage();
	assert.equal(message.stop_reason, 'max_tokens');
	assert.ok((await balance(at.keys.poor_anthropic)).balance >= 0);
});
