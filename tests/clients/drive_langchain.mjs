// Drives npm's `@langchain/openai`.

import { drive, prompt, require } from "./driving.mjs";

const { ChatOpenAI } = require("@langchain/openai");
const { tool } = require("@langchain/core/tools");
const { z } = require("zod");

const weather = tool(async () => "sunny", {
  name: "weather",
  description: "Now.",
  schema: z.object({ city: z.string() }),
});

async function chat({ baseURL, apiKey }, request, seen) {
  const bare = new ChatOpenAI({ model: request.model, apiKey, configuration: { baseURL } });
  const model = request.tools ? bare.bindTools([weather]) : bare;
  if (request.stream) {
    for await (const chunk of await model.stream(prompt)) seen.text += chunk.text;
    return;
  }
  const message = await model.invoke(prompt);
  seen.text = message.text;
  seen.finish = message.response_metadata.finish_reason;
  seen.usage = [message.usage_metadata.input_tokens, message.usage_metadata.output_tokens];
  seen.calls = message.tool_calls.map(({ name, args }) => ({ name, arguments: JSON.stringify(args) }));
}

await drive({ chat });
