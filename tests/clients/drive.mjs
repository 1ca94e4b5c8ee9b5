// Drives npm's `openai` like its neighbours in Python: a request a line in, what was seen a line out.
// Run as `node drive.mjs BASE_URL KEY` with the package's folder in CLIENT_PACKAGES.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.CLIENT_PACKAGES}/`);
const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");
const [baseURL, key] = process.argv.slice(2);
const messages = [{ role: "user", content: "What is the weather?" }];
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", function: { name: "weather", description: "Now.", parameters } }];

async function chat(client, asked, seen) {
  const body = { model: asked.model, messages, stream: asked.stream };
  if (asked.tools) body.tools = tools;
  if (asked.usage) body.stream_options = { include_usage: true };
  const { data, request_id } = await client.chat.completions.create(body).withResponse();
  seen.request_id = request_id;
  if (asked.stream) {
    for await (const chunk of data) learn(chunk, seen);
    return;
  }
  const [choice] = data.choices;
  seen.text = choice.message.content ?? "";
  seen.finish = choice.finish_reason;
  seen.usage = usageOf(data);
  seen.calls = (choice.message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function }));
}

function learn(chunk, seen) {
  if (chunk.usage) seen.usage = usageOf(chunk);
  for (const choice of chunk.choices) {
    seen.text += choice.delta.content ?? "";
    seen.finish = choice.finish_reason ?? seen.finish;
    for (const call of choice.delta.tool_calls ?? []) {
      if (call.id) seen.calls.push({ id: call.id, name: call.function.name, arguments: "" });
      seen.calls[call.index].arguments += call.function.arguments ?? "";
    }
  }
}

function usageOf({ usage }) {
  return [usage.prompt_tokens, usage.completion_tokens];
}

async function respond(client, asked, seen) {
  const body = { model: asked.model, input: "hi", stream: asked.stream };
  const { data, request_id } = await client.responses.create(body).withResponse();
  seen.request_id = request_id;
  let response = data;
  if (asked.stream) {
    for await (const event of data) {
      if (event.type === "response.output_text.delta") seen.text += event.delta;
      if (event.type === "response.completed") response = event.response;
    }
  } else {
    seen.text = data.output_text;
  }
  seen.finish = response.status;
  seen.usage = [response.usage.input_tokens, response.usage.output_tokens];
}

async function embed(client, asked, seen) {
  const answer = await client.embeddings.create({ model: asked.model, input: ["a", "b"] });
  seen.vectors = answer.data.map((row) => row.embedding);
}

function version(_client, _asked, seen) {
  seen.text = VERSION;
}

// What a caller can learn from it.
function told(error) {
  const kinds = [];
  for (let kind = error; kind; kind = Object.getPrototypeOf(kind)) {
    if (Object.hasOwn(kind, "constructor")) kinds.push(kind.constructor.name);
  }
  const { status = null, code = null, param = null, message, requestID = null } = error;
  return { kinds, status, code, param, message, request_id: requestID };
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const client = new OpenAI({ baseURL, apiKey: asked.key ?? key });
  const seen = { text: "", finish: null, usage: null, calls: [], request_id: null, error: null };
  try {
    await { chat, respond, embed, version }[asked.do](client, asked, seen);
  } catch (error) {
    seen.error = told(error);
  }
  console.log(JSON.stringify(seen));
}
