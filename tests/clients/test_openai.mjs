// The OpenAI SDK, unchanged but for its base URL and key.
import assert from 'node:assert/strict';
import test from 'node:test';

import { at, balance, cancelled, counting, DIALECTS, HELLO, model, require, until } from './tolld.mjs';

const OpenAI = require('openai');
const { z } = require('zod');
const WHERE = z.object({ city: z.string(), days: z.number() });
const client = (key = at.keys.rich, options = {}) =>
	new OpenAI({ apiKey: key, baseURL: `${at.url}/v1`, ...options });

for (const dialect of DIALECTS) {
	test(`streams, from ${dialect}`, async () => {
		const stream = await client().chat.completions.create({
			model: model('ten', dialect), messages: HELLO, stream: true,
			stream_options: { include_usage: true },
		});
		let text = '', finish = null, usage = null;
		for await (const chunk of stream) {
			assert.equal(chunk.object, 'chat.completion.chunk');
			text += chunk.choices[0]?.delta?.content ?? '';
			finish = chunk.choices[0]?.finish_reason ?? finish;
			usage = chunk.usage ?? usage;
		}
		assert.equal(text, at.texts.ten);
		assert.equal(finish, 'stop');
		assert.equal(usage.completion_tokens, 10);
		assert.equal(usage.total_tokens, usage.prompt_tokens + 10);
	});

	test(`answers whole, from ${dialect}`, async () => {
		const { data, response } = await client().chat.completions.create({
			model: model('ten', dialect), messages: HELLO,
		}).withResponse();
		assert.equal(data.object, 'chat.completion');
		assert.equal(data.choices[0].message.role, 'assistant');
		assert.equal(data.choices[0].message.content, at.texts.ten);
		assert.equal(data.choices[0].finish_reason, 'stop');
		assert.equal(data.usage.completion_tokens, 10);
		assert.ok(data._request_id);
		assert.ok(Number(response.headers.get('x-tolld-cost')) > 0);
		assert.ok(Number(response.headers.get('x-tolld-available')) > 0);
		assert.ok(response.headers.get('x-tolld-provider'));
	});

	test(`calls a function, streamed, from ${dialect}`, async () => {
		const runner = client().chat.completions.stream({
			model: model('weather', dialect), messages: HELLO, tools: [WEATHER],
		});
		const { choices: [{ message, finish_reason }] } = await runner.finalChatCompletion();
		assert.equal(finish_reason, 'tool_calls');
		assert.equal(message.tool_calls.length, 1);
		assert.equal(message.tool_calls[0].function.name, 'weather');
		assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments),
			{ city: 'Paris', days: 3 });
	});

	test(`calls a function, whole, and answers its result, from ${dialect}`, async () => {
		const first = await client().chat.completions.create({
			model: model('weather', dialect), messages: HELLO, tools: [WEATHER],
			tool_choice: 'auto',
		});
		const call = first.choices[0].message.tool_calls[0];
		const second = await client().chat.completions.create({
			model: model('ten', dialect), tools: [WEATHER],
			messages: [...HELLO, first.choices[0].message,
				{ role: 'tool', tool_call_id: call.id, content: '{"sun":true}' }],
		});
		assert.equal(second.choices[0].message.content, at.texts.ten);
	});

	test(`stops at its limit, from ${dialect}`, async () => {
		const r = await client().chat.completions.create({
			model: model('ten', dialect), messages: HELLO, max_tokens: 4,
		});
		assert.equal(r.choices[0].finish_reason, 'length');
		assert.equal(r.usage.completion_tokens, 4);
	});

	test(`leaves in mid-answer, from ${dialect}`, async () => {
		const before = await cancelled();
		const stream = await client().chat.completions.create({
			model: model('slow', dialect), messages: HELLO, stream: true,
		});
		let chunks = 0;
		for await (const chunk of stream) {
			if (chunk.choices[0]?.delta?.content && ++chunks === 3)
				break; // which aborts the request
		}
		await until(async () => await cancelled() > before, 'the provider to be left');
		await until(async () => (await balance(at.keys.rich)).held === 0, 'the hold to be settled');
	});

	test(`hears of a failure in mid-answer, from ${dialect}`, async () => {
		const stream = await client().chat.completions.create({
			model: model('broken', dialect), messages: HELLO, stream: true,
		});
		let text = '';
		await assert.rejects(async () => {
			for await (const chunk of stream)
				text += chunk.choices[0]?.delta?.content ?? '';
		}, (e) => e instanceof OpenAI.APIError && e.code === 'upstream_error' &&
			e.type === 'server_error' && /error/.test(e.message) && e.requestID !== null);
		assert.equal(text, at.texts.five);
	});
}

const WEATHER = {
	type: 'function',
	function: {
		name: 'weather', description: 'The weather in a city',
		parameters: {
			type: 'object', required: ['city'],
			properties: { city: { type: 'string' }, days: { type: 'integer' } },
		},
	},
};

test('several choices and logprobs pass through', async () => {
	const r = await client().chat.completions.create({
		model: model('ten'), messages: HELLO, n: 3, logprobs: true,
	});
	assert.deepEqual(r.choices.map((c) => c.index), [0, 1, 2]);
	assert.equal(r.choices[2].logprobs.content[0].logprob, -0.5);
	const stream = await client().chat.completions.create({
		model: model('ten'), messages: HELLO, n: 2, logprobs: true, stream: true,
	});
	const texts = ['', ''];
	for await (const chunk of stream) {
		for (const c of chunk.choices)
			texts[c.index] += c.delta.content ?? '';
	}
	assert.deepEqual(texts, [at.texts.ten, at.texts.ten]);
});

test('without being asked, usage is not shown', async () => {
	const stream = await client().chat.completions.create({
		model: model('ten'), messages: HELLO, stream: true,
	});
	for await (const chunk of stream) {
		assert.equal(chunk.choices.length, 1);
		assert.equal(chunk.usage ?? null, null);
	}
});

test('an answer that credit cannot pay ends as length', async () => {
	const stream = await client(at.keys.poor).chat.completions.create({
		model: model('thousand'), messages: HELLO, stream: true,
	});
	let finish = null, reason = null;
	for await (const chunk of stream) {
		finish = chunk.choices[0]?.finish_reason ?? finish;
		reason = chunk.tolld?.finish ?? reason;
	}
	assert.equal(finish, 'length');
	assert.equal(reason, 'credit');
	assert.ok((await balance(at.keys.poor)).balance >= 0);
});

test('no credit is a 402, and is not tried again', async () => {
	const f = counting();
	await assert.rejects(
		client(at.keys.empty, { fetch: f, maxRetries: 3 }).chat.completions.create({
			model: model('ten'), messages: HELLO,
		}),
		(e) => e instanceof OpenAI.APIError && e.status === 402 &&
			e.type === 'insufficient_quota' && e.code === 'insufficient_credit');
	assert.equal(f.calls, 1);
});

test('a provider that is busy is asked again by the SDK', async () => {
	const f = counting();
	await assert.rejects(
		client(at.keys.rich, { fetch: f, maxRetries: 1 }).chat.completions.create({
			model: model('busy'), messages: HELLO,
		}),
		(e) => e instanceof OpenAI.InternalServerError && e.status === 503);
	assert.equal(f.calls, 2);
});

test('errors have their classes', async () => {
	const ask = (key, more) => client(key).chat.completions.create({
		model: model('ten'), messages: HELLO, ...more,
	});
	await assert.rejects(ask('tk-wrong'), OpenAI.AuthenticationError);
	await assert.rejects(ask(at.keys.rich, { model: 'none' }),
		(e) => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
	await assert.rejects(ask(at.keys.rich, { messages: 'hello' }),
		(e) => e instanceof OpenAI.BadRequestError && e.param === 'messages');
	await assert.rejects(ask(at.keys.rich, { max_tokens: -1 }),
		(e) => e instanceof OpenAI.BadRequestError && e.param === 'max_tokens');
	await assert.rejects(ask(at.keys.rich, { model: model('ten', 'ollama'), logprobs: true }),
		(e) => e instanceof OpenAI.BadRequestError && e.param === 'logprobs');
	// What the provider refuses it would refuse again: the SDK is told so.
	const f = counting();
	await assert.rejects(client(at.keys.rich, { maxRetries: 3, fetch: f }).chat.completions.create({
		model: model('refused'), messages: HELLO,
	}), (e) => e instanceof OpenAI.InternalServerError && e.status === 502);
	assert.equal(f.calls, 1);
});

test('an answer is parsed by its schema, whole and streamed', async () => {
	const { zodResponseFormat } = require('openai/helpers/zod');
	const format = zodResponseFormat(WHERE, 'where');
	const body = { model: model('object'), messages: HELLO, response_format: format };
	const whole = await client().chat.completions.parse(body);
	assert.deepEqual(whole.choices[0].message.parsed, { city: 'Paris', days: 3 });
	const streamed = await client().chat.completions.stream(body).finalChatCompletion();
	assert.deepEqual(streamed.choices[0].message.parsed, { city: 'Paris', days: 3 });
});

test('a client that waits no longer is gone at the provider, too', async () => {
	const before = await cancelled();
	await assert.rejects(
		client(at.keys.rich, { timeout: 3000, maxRetries: 0 }).chat.completions.create({
			model: model('late'), messages: HELLO,
		}), OpenAI.APIConnectionTimeoutError);
	await until(async () => await cancelled() > before, 'the provider to be left');
});

test('models are listed, with prices', async () => {
	const names = [];
	for await (const m of await client().models.list())
		names.push(m.id);
	assert.ok(names.includes(model('ten')));
	assert.equal((await client().models.retrieve(model('ten'))).object, 'model');
	await assert.rejects(client().models.retrieve('none'), OpenAI.NotFoundError);
});

test('embeddings, as numbers and as the SDK likes them', async () => {
	const numbers = await client().embeddings.create({
		model: model('vectors'), input: ['a', 'b'], encoding_format: 'float', dimensions: 3,
	});
	assert.deepEqual(numbers.data.map((d) => d.embedding), [[.5, .25, .125], [.5, .25, .125]]);
	const base64 = await client().embeddings.create({ model: model('vectors'), input: 'hello' });
	assert.equal(base64.data[0].embedding[1], .25);
	assert.ok(base64.usage.prompt_tokens > 0);
});

test('a request sent twice with one key is answered once', async () => {
	const ask = (content) => client().chat.completions.create(
		{ model: model('ten'), messages: [{ role: 'user', content }] },
		{ idempotencyKey: 'clients-1', headers: { 'Idempotency-Key': 'clients-1' } });
	const first = await ask('once'), before = await balance(at.keys.rich);
	assert.deepEqual(await ask('once'), first);
	assert.equal((await balance(at.keys.rich)).balance, before.balance);
	await assert.rejects(client(at.keys.rich, { maxRetries: 0 }).chat.completions.create(
		{ model: model('ten'), messages: [{ role: 'user', content: 'twice' }] },
		{ headers: { 'Idempotency-Key': 'clients-1' } }), OpenAI.ConflictError);
});
