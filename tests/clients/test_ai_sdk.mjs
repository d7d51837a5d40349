// Vercel's AI SDK, with its provider for whatever is compatible with OpenAI.
import assert from 'node:assert/strict';
import test from 'node:test';

import { at, balance, cancelled, counting, DIALECTS, model, require, until } from './tolld.mjs';

const {
	APICallError, embed, generateObject, generateText, stepCountIs, streamObject, streamText, tool,
} = require('ai');
const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
const { z } = require('zod');

const provider = (key = at.keys.rich, more = {}) => createOpenAICompatible({
	name: 'tolld', apiKey: key, baseURL: `${at.url}/v1`, includeUsage: true, ...more,
});

for (const dialect of DIALECTS) {
	test(`generates text, from ${dialect}`, async () => {
		const r = await generateText({ model: provider()(model('ten', dialect)), prompt: 'hello' });
		assert.equal(r.text, at.texts.ten);
		assert.equal(r.finishReason, 'stop');
		assert.equal(r.usage.outputTokens, 10);
	});

	test(`streams text, from ${dialect}`, async () => {
		const r = streamText({ model: provider()(model('ten', dialect)), prompt: 'hello' });
		let text = '';
		for await (const t of r.textStream)
			text += t;
		assert.equal(text, at.texts.ten);
		assert.equal((await r.usage).outputTokens, 10);
		assert.equal(await r.finishReason, 'stop');
	});

	test(`calls tools, from ${dialect}`, async () => {
		const inputs = [];
		const r = streamText({
			model: provider()(model('weather', dialect)), prompt: 'hello',
			stopWhen: stepCountIs(2),
			tools: {
				weather: tool({
					description: 'The weather', inputSchema: z.object({
						city: z.string(), days: z.number(),
					}),
					execute: async (input) => { inputs.push(input); return 'sun'; },
				}),
			},
		});
		await r.consumeStream();
		assert.deepEqual(inputs, [{ city: 'Paris', days: 3 }, { city: 'Paris', days: 3 }]);
		assert.equal(await r.finishReason, 'tool-calls');
	});
}

test('aborts', async () => {
	const before = await cancelled(), abort = new AbortController();
	const r = streamText({
		model: provider()(model('slow')), prompt: 'hello', abortSignal: abort.signal, onError() {},
	});
	let pieces = 0;
	for await (const t of r.textStream) {
		if (t && ++pieces === 3)
			abort.abort();
	}
	await until(async () => await cancelled() > before, 'the provider to be left');
	await until(async () => (await balance(at.keys.rich)).held === 0, 'the hold to be settled');
});

test('no credit is an error that is not retried', async () => {
	const f = counting();
	await assert.rejects(generateText({
		model: provider(at.keys.empty, { fetch: f })(model('ten')), prompt: 'hello', maxRetries: 3,
	}), (e) => APICallError.isInstance(e) && e.statusCode === 402 && !e.isRetryable);
	assert.equal(f.calls, 1);
});

test('an error in mid-answer is told', async () => {
	let error = null;
	const r = streamText({
		model: provider()(model('broken')), prompt: 'hello', onError(e) { error = e.error; },
	});
	let text = '';
	for await (const t of r.textStream)
		text += t;
	assert.equal(text, at.texts.five);
	assert.ok(error);
});

test('a credit cut is a length', async () => {
	const r = streamText({
		model: provider(at.keys.poor_ai)(model('thousand')), prompt: 'hello',
	});
	await r.consumeStream();
	assert.equal(await r.finishReason, 'length');
});

test('generates objects', async () => {
	const compatible = provider(at.keys.rich, { supportsStructuredOutputs: true });
	const schema = z.object({ city: z.string(), days: z.number() });
	const { object } = await generateObject({
		model: compatible(model('object')), schema, prompt: 'hello',
	});
	assert.deepEqual(object, { city: 'Paris', days: 3 });
	const streamed = streamObject({ model: compatible(model('object')), schema, prompt: 'hello' });
	for await (const part of streamed.partialObjectStream)
		assert.equal(typeof part, 'object');
	assert.deepEqual(await streamed.object, { city: 'Paris', days: 3 });
});

test('thoughts are reasoning', async () => {
	for (const dialect of DIALECTS) {
		const r = streamText({ model: provider()(model('thinking', dialect)), prompt: 'hello' });
		await r.consumeStream();
		assert.deepEqual([await r.reasoningText, await r.text], ['hm', at.texts.ten]);
	}
});

test('embeds', async () => {
	const r = await embed({
		model: provider().textEmbeddingModel(model('vectors')), value: 'hello',
	});
	assert.equal(r.embedding[1], .25);
});
