// The official `@anthropic-ai/sdk`: what it makes of a message, whole and streamed, as one JSON document.
import Anthropic from "@anthropic-ai/sdk";

const [base, key, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
const asked = { model, max_tokens: 64, messages: [{ role: "user", content: "Hello" }] };
const said = {};
const text = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

const { data: message, response } = await client.messages.create(asked).withResponse();
said["messages json"] = { text: text(message), tag: message.ai_provenance?.token, header: response.headers.get("ai-provenance") };

const events = { text: "" };
for await (const event of await client.messages.create({ ...asked, stream: true })) {
  if (event.type === "message_start") events.pending = event.message.ai_provenance?.token;
  if (event.type === "content_block_delta" && event.delta.type === "text_delta") events.text += event.delta.text;
  if (event.type === "message_stop") events.tag = event.ai_provenance?.token;
}
said["messages stream"] = events;

const final = await client.messages.stream(asked).finalMessage();
said["messages stream helper"] = { text: text(final), pending: final.ai_provenance?.token };

console.log(JSON.stringify(said));
