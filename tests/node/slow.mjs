// What JavaScript clients make of a slow stream, as one JSON object. Usage: node slow.mjs BASE_URL
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { streamText } from "ai";
import OpenAI from "openai";

const base = process.argv[2];
const messages = [{ role: "user", content: "hi" }];
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none" });
const anthropic = new Anthropic({ baseURL: base, apiKey: "none" });
const ai = createOpenAICompatible({ name: "wicketgate", baseURL: `${base}/v1`, apiKey: "none" });

console.log(
  JSON.stringify({
    openai: await openai.chat.completions.stream({ model: "demo", messages }).finalContent(),
    responses: (await openai.responses.stream({ model: "demo", input: "hi" }).finalResponse()).output_text,
    anthropic: await anthropic.messages.stream({ model: "demo", messages, max_tokens: 9 }).finalText(),
    ai: await streamText({ model: ai("demo"), messages }).text,
  }),
);
