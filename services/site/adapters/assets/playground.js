// Sends a prompt from the browser to the API, and shows the wake and the answer as they come. The key stays in the field.
"use strict";
const form = document.getElementById("playground");
const byId = (id) => document.getElementById(id);
let running = null;

const say = (words) => { byId("play-state").textContent = words; };

function phase(comment) {
  const fields = Object.fromEntries(comment.split(" ").filter((word) => word.includes("=")).map((word) => word.split("=", 2)));
  if (!comment.startsWith("waking") || !fields.phase) return;
  const eta = fields.eta === "?" ? "time left not known" : `about ${fields.eta} s left`;
  say(`Waking ${fields.tier}: ${fields.phase}, ${eta}.`);
  const list = byId("play-phases");
  if (!list.lastChild || list.lastChild.dataset.phase !== fields.phase) {
    const item = document.createElement("li");
    item.dataset.phase = fields.phase;
    list.append(item);
  }
  list.lastChild.textContent = `${fields.phase} (${fields.tier}), ${eta}`;
}

function usage(numbers, began) {
  const { usd, day } = byId("play-model").selectedOptions[0]?.dataset ?? {};
  const tokens = numbers.prompt_tokens + numbers.completion_tokens;
  const cost = usd ? `$${Number((tokens * Number(usd) / 1e6).toPrecision(3))}, at the $${usd} per million of the price band since ${day}` : "not known: no price band is in force";
  const rows = {
    "Prompt tokens": numbers.prompt_tokens,
    "Of them cached": numbers.prompt_tokens_details?.cached_tokens,
    "Completion tokens": numbers.completion_tokens,
    "Cost, estimated": cost,
    "Seconds in all": ((performance.now() - began) / 1000).toFixed(1),
  };
  byId("play-usage").replaceChildren(...Object.entries(rows).filter(([, value]) => value !== undefined && value !== null).map(([name, value]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    row.append(term, text);
    return row;
  }));
}

// Returns whether the line ends the answer.
function line(text, began) {
  if (text.startsWith(":")) phase(text.slice(1).trim());
  if (!text.startsWith("data:")) return false;
  const data = text.slice(5).trim();
  if (data === "[DONE]") return true;
  const event = JSON.parse(data);
  if (event.error) throw new Error(`${event.error.code}: ${event.error.message}`);
  const delta = event.choices?.[0]?.delta?.content;
  if (delta) {
    say("Answering.");
    byId("play-text").append(delta);
  }
  if (event.usage) usage(event.usage, began);
  return false;
}

async function ask(signal) {
  try {
    return await fetch(`${form.dataset.api}/v1/chat/completions`, {
      method: "POST",
      signal,
      headers: { "Authorization": `Bearer ${byId("play-key").value.trim()}`, "Content-Type": "application/json" },
      body: JSON.stringify({
        model: byId("play-model").value,
        messages: [{ role: "user", content: byId("play-prompt").value }],
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The API cannot be reached from this page: is this site in its cors_origins?");
  }
}

async function send(signal) {
  const began = performance.now();
  for (const id of ["play-text", "play-phases", "play-usage"]) byId(id).replaceChildren();
  say("Sent. Waiting for the first word.");
  const response = await ask(signal);
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(`${response.status} ${body.error?.code ?? ""}: ${body.error?.message ?? "the API refused the request"}`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", isWhole = false;
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (signal.aborted) throw error;
      return { done: true };
    });
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const text of lines) isWhole = line(text.trim(), began) || isWhole;
  }
  say(isWhole ? "Done." : "The answer broke off: the connection was lost.");
}

// A prompt that is sent while another one runs takes its place, and what the other still says is not shown.
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  running?.abort();
  const mine = running = new AbortController();
  byId("play-stop").hidden = false;
  try {
    await send(mine.signal);
  } catch (error) {
    if (running === mine) say(mine.signal.aborted ? "Stopped." : error.message);
  }
  mine.abort(); // after a fault the answer may still be coming
  if (running === mine) byId("play-stop").hidden = true;
});
byId("play-stop")?.addEventListener("click", () => running?.abort());
