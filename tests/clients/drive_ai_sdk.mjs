// Drives npm's `ai` with `@ai-sdk/openai-compatible`. It calls its tool itself.

import { drive, prompt, require } from "./driving.mjs";

const { generateText, stepCountIs, streamText, tool } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { z } = require("zod");

async function chat({ baseURL, apiKey }, request, seen) {
  const model = createOpenAICompatible({ name: "spotinference", baseURL, apiKey })(request.model);
  const weather = tool({
    description: "Now.",
    inputSchema: z.object({ city: z.string() }),
    execute: async (given) => {
      seen.calls.push({ name: "weather", arguments: JSON.stringify(given) });
      return "sunny";
    },
  });
  const settings = { model, prompt, stopWhen: stepCountIs(2), ...(request.tools ? { tools: { weather } } : {}) };
  if (request.stream) {
    let failure = null;
    const result = streamText({ ...settings, onError: ({ error }) => (failure ??= error) });
    for await (const piece of result.textStream) seen.text += piece;
    if (failure) throw failure;
    seen.finish = await result.finishReason;
    return;
  }
  const { text, finishReason, usage } = await generateText(settings);
  seen.text = text;
  seen.finish = finishReason;
  seen.usage = [usage.inputTokens, usage.outputTokens];
}

await drive({ chat });
