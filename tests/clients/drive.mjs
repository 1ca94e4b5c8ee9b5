// Drives npm's `openai` like its neighbours in Python.

import { drive, prompt, require } from "./driving.mjs";

const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");
const messages = [{ role: "user", content: prompt }];
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", function: { name: "weather", description: "Now.", parameters } }];

async function chat(client, request, seen) {
  const body = { model: request.model, messages, stream: request.stream };
  if (request.tools) body.tools = tools;
  if (request.usage) body.stream_options = { include_usage: true };
  const { data, request_id } = await client.chat.completions.create(body).withResponse();
  seen.request_id = request_id;
  if (request.stream) {
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

async function respond(client, request, seen) {
  const body = { model: request.model, input: "hi", stream: request.stream };
  const { data, request_id } = await client.responses.create(body).withResponse();
  seen.request_id = request_id;
  let response = data;
  if (request.stream) {
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

async function embed(client, request, seen) {
  const answer = await client.embeddings.create({ model: request.model, input: ["a", "b"] });
  seen.vectors = answer.data.map((row) => row.embedding);
}

function version(_client, _asked, seen) {
  seen.text = VERSION;
}

await drive(
  Object.fromEntries(
    Object.entries({ chat, respond, embed, version }).map(([name, way]) => [
      name,
      (place, request, seen) => way(new OpenAI(place), request, seen),
    ]),
  ),
);
