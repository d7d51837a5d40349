// LangChain's JavaScript client of OpenAI's API.
import assert from 'node:assert/strict';
import test from 'node:test';

import { at, balance, cancelled, counting, DIALECTS, model, require, until } from './tolld.mjs';

const { ChatOpenAI, OpenAIEmbeddings } = require('@langchain/openai');
const { AIMessage, HumanMessage, ToolMessage } = require('@langchain/core/messages');
const { tool } = require('@langchain/core/tools');
const { z } = require('zod');

const chat = (name, key = at.keys.rich, more = {}) => new ChatOpenAI({
	model: name, apiKey: key, maxRetries: 0, ...more,
	configuration: { baseURL: `${at.url}/v1`, ...more.configuration },
});
const weather = tool(async () => 'sun', {
	name: 'weather', description: 'The weather',
	schema: z.object({ city: z.string(), days: z.number() }),
});

for (const dialect of DIALECTS) {
	test(`invokes, from ${dialect}`, async () => {
		const r = await chat(model('ten', dialect)).invoke('hello');
		assert.equal(r.content, at.texts.ten);
		assert.equal(r.usage_metadata.output_tokens, 10);
		assert.equal(r.response_metadata.finish_reason, 'stop');
	});

	test(`streams, from ${dialect}`, async () => {
		let text = '', tokens = 0;
		for await (const chunk of await chat(model('ten', dialect)).stream('hello')) {
			text += chunk.content;
			tokens += chunk.usage_metadata?.output_tokens ?? 0;
		}
		assert.equal(text, at.texts.ten);
		assert.equal(tokens, 10);
	});

	test(`binds tools, from ${dialect}`, async () => {
		const bound = chat(model('weather', dialect)).bindTools([weather]);
		const r = await bound.invoke('hello');
		assert.equal(r.tool_calls[0].name, 'weather');
		assert.deepEqual(r.tool_calls[0].args, { city: 'Paris', days: 3 });
		const next = await chat(model('ten', dialect)).invoke([
			new HumanMessage('hello'), new AIMessage({ content: '', tool_calls: r.tool_calls }),
			new ToolMessage({ content: 'sun', tool_call_id: r.tool_calls[0].id }),
		]);
		assert.equal(next.content, at.texts.ten);
	});
}

test('gives what a schema says', async () => {
	const schema = z.object({ city: z.string(), days: z.number() });
	assert.deepEqual(await chat(model('object'))
		.withStructuredOutput(schema, { method: 'jsonSchema' }).invoke('hello'),
	{ city: 'Paris', days: 3 });
});

test('hears of a failure in mid-answer', async () => {
	let text = '';
	await assert.rejects(async () => {
		for await (const chunk of await chat(model('broken')).stream('hello'))
			text += chunk.content;
	}, (e) => e.code === 'upstream_error');
	assert.equal(text, at.texts.five);
});

test('aborts by a signal', async () => {
	const before = await cancelled(), abort = new AbortController();
	await assert.rejects(async () => {
		let n = 0;
		for await (const chunk of await chat(model('slow'))
			.stream('hello', { signal: abort.signal })) {
			if (chunk.content && ++n === 3)
				abort.abort();
		}
	});
	await until(async () => await cancelled() > before, 'the provider to be left');
	await until(async () => (await balance(at.keys.rich)).held === 0, 'the hold to be settled');
});

test('no credit is not tried again', async () => {
	const f = counting();
	await assert.rejects(chat(model('ten'), at.keys.empty, {
		maxRetries: 3, configuration: { fetch: f },
	}).invoke('hello'), (e) => e.status === 402);
	assert.equal(f.calls, 1);
});

test('embeds', async () => {
	const e = new OpenAIEmbeddings({
		model: model('vectors'), apiKey: at.keys.rich,
		configuration: { baseURL: `${at.url}/v1` },
	});
	assert.equal((await e.embedDocuments(['a', 'b']))[1][1], .25);
});
