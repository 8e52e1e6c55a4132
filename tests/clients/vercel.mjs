// The Vercel AI SDK over both vendors' dialects, as one JSON document.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [base, key, model] = process.argv.slice(2);
const tags = [];
const tapped = async (input, init) => {
  const response = await fetch(input, init);
  tags.push(response.headers.get("ai-provenance"));
  return response;
};
const chat = createOpenAICompatible({ name: "provider", baseURL: `${base}/v1`, apiKey: key, fetch: tapped });
const messages = createAnthropic({ baseURL: `${base}/v1`, apiKey: key, fetch: tapped });
const said = {};

async function told(name, languageModel) {
  const whole = await generateText({ model: languageModel, prompt: "Hello", maxRetries: 0, include: { responseBody: true } });
  said[`${name} json`] = { text: whole.text, header: tags.at(-1), tag: whole.response.body?.ai_provenance?.token };
  const stream = streamText({ model: languageModel, prompt: "Hello", maxRetries: 0, includeRawChunks: true, onError: ({ error }) => { throw error; } });
  const streamed = { text: "", header: null };
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") streamed.text += part.text;
    if (part.type === "raw") streamed.tag = part.rawValue?.ai_provenance?.token ?? streamed.tag;
    if (part.type === "error") throw part.error;
  }
  streamed.header = tags.at(-1);
  said[`${name} stream`] = streamed;
}

await told("chat", chat.chatModel(model));
await told("messages", messages(model));
console.log(JSON.stringify(said));
