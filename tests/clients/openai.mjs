// The official `openai` client for Node.js: what it makes of each dialect it speaks, as one JSON document.
import OpenAI from "openai";

const [base, key, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const said = {};

const { data: chat, response } = await client.chat.completions.create({ model, messages }).withResponse();
said["chat json"] = { text: chat.choices[0].message.content, tag: chat.ai_provenance?.token, header: response.headers.get("ai-provenance") };

const stream = await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } });
const chunks = { text: "" };
for await (const chunk of stream) {
  chunks.text += chunk.choices[0]?.delta?.content ?? "";
  chunks.tag = chunk.ai_provenance?.token ?? chunks.tag;
}
said["chat stream"] = chunks;

const helper = client.chat.completions.stream({ model, messages });
said["chat stream helper"] = { text: (await helper.finalChatCompletion()).choices[0].message.content };

const completion = await client.completions.create({ model, prompt: "Hello" });
said["completions json"] = { text: completion.choices[0].text, tag: completion.ai_provenance?.token };

const completions = { text: "" };
for await (const chunk of await client.completions.create({ model, prompt: "Hello", stream: true })) {
  completions.text += chunk.choices[0]?.text ?? "";
  completions.tag = chunk.ai_provenance?.token ?? completions.tag;
}
said["completions stream"] = completions;

const whole = await client.responses.create({ model, input: "Hello" });
said["responses json"] = { text: whole.output_text, tag: whole.ai_provenance?.token };

const events = { text: "" };
for await (const event of await client.responses.create({ model, input: "Hello", stream: true })) {
  if (event.type === "response.output_text.delta") events.text += event.delta;
  if (event.type === "response.completed") events.tag = event.response.ai_provenance?.token;
}
said["responses stream"] = events;

const final = await client.responses.stream({ model, input: "Hello" }).finalResponse();
said["responses stream helper"] = { text: final.output_text, tag: final.ai_provenance?.token };

const embedded = await client.embeddings.create({ model, input: "Hello" });
said["embeddings"] = { text: JSON.stringify(embedded.data[0].embedding), tag: embedded.ai_provenance?.token };

console.log(JSON.stringify(said));
