// The server. A fault is an Error with `kind`: gone, key, or api (what the server says).
export class Fault extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

const headers = () => {
  const key = sessionStorage.getItem("glm.key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
};

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, { headers: headers(), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("gone", "");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Fault(response.status === 401 ? "key" : "api", told.error?.message ?? `HTTP ${response.status}`);
}

export async function models() {
  const found = await (await asked("/v1/models")).json();
  return found.data.map((model) => model.id);
}

// Chunks of a chat as they come.
export async function* chat(body, signal) {
  const response = await asked("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let over = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        if (event === "data: [DONE]") {
          over = true;
          return;
        }
        const chunk = JSON.parse(event.slice(6));
        if (chunk.error) throw new Fault("api", chunk.error.message);
        yield chunk;
      }
    }
  } catch (error) {
    if (error instanceof Fault || error.name === "AbortError") throw error;
    throw new Fault("gone", "");
  }
  if (!over) throw new Fault("gone", "");
}
