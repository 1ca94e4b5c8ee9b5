// What the drivers for Node share: a request a line in, what the client saw a line out.
// Run as `node DRIVER BASE_URL KEY` with the package's folder in CLIENT_PACKAGES.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

export const require = createRequire(`${process.env.CLIENT_PACKAGES}/`);
export const prompt = "What is the weather?";

// What a caller can learn of an error. Frameworks wrap the error of the package below: what it knows counts too.
function describe(error) {
  const kinds = [];
  for (let kind = error; kind; kind = Object.getPrototypeOf(kind)) {
    if (Object.hasOwn(kind, "constructor")) kinds.push(kind.constructor.name);
  }
  const chain = [];
  for (let one = error; one && !chain.includes(one); one = one.cause ?? one.lastError) chain.push(one);
  const first = (...names) => chain.flatMap((one) => names.map((name) => one[name])).find((value) => value != null);
  return {
    kinds,
    status: first("status", "statusCode") ?? null,
    code: first("code") ?? null,
    param: first("param") ?? null,
    message: chain.map((one) => `${one.message ?? one} ${one.responseBody ?? ""}`.trim()).join(" <- "),
    request_id: first("requestID") ?? null,
  };
}

export async function drive(ways) {
  const [baseURL, key] = process.argv.slice(2);
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    const seen = { text: "", finish: null, usage: null, calls: [], request_id: null, error: null };
    try {
      await ways[request.do]({ baseURL, apiKey: request.key ?? key }, request, seen);
    } catch (error) {
      seen.error = describe(error);
    }
    console.log(JSON.stringify(seen));
  }
}
