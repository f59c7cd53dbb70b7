// Conversations in this browser. A conversation is a tree: every message knows its parent, `leaf` is where we are.
const NAME = "glm.conversations";
const fresh = () => crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;

export class Store {
  constructor() {
    try {
      this.all = JSON.parse(localStorage.getItem(NAME)) ?? [];
    } catch {
      this.all = [];
    }
    if (!Array.isArray(this.all)) this.all = [];
    this.current = this.all[0] ?? null;
  }

  begin(settings) {
    this.current = { id: fresh(), title: "", nodes: {}, leaf: null, settings };
    this.all.unshift(this.current);
    return this.current;
  }

  remove(id) {
    this.all = this.all.filter((one) => one.id !== id);
    if (this.current?.id === id) this.current = this.all[0] ?? null;
  }

  // False when the browser has no room.
  save() {
    try {
      localStorage.setItem(NAME, JSON.stringify(this.all));
      return true;
    } catch {
      return false;
    }
  }

  add(message, parent = this.current.leaf) {
    const node = { id: fresh(), parent, ...message };
    this.current.nodes[node.id] = node;
    this.current.leaf = node.id;
    if (!this.current.title && node.role === "user") this.current.title = node.content.slice(0, 60);
    return node;
  }

  path() {
    const found = [];
    for (let id = this.current?.leaf; id; id = this.current.nodes[id]?.parent) {
      if (this.current.nodes[id]) found.unshift(this.current.nodes[id]);
    }
    return found;
  }

  siblings(node) {
    return Object.values(this.current.nodes).filter((other) => other.parent === node.parent);
  }

  // Goes to another version of a message, and to the newest end of it.
  go(node) {
    let id = node.id;
    for (;;) {
      const below = Object.values(this.current.nodes).filter((other) => other.parent === id);
      if (!below.length) break;
      id = below[below.length - 1].id;
    }
    this.current.leaf = id;
  }

  // What OpenAI's interface wants.
  messages(system) {
    const opening = system ? [{ role: "system", content: system }] : [];
    return [...opening, ...this.path().filter((node) => !node.fault || node.content || node.calls).map(wire)];
  }

  // A conversation as the training of this project reads it.
  training(system, tools) {
    const messages = this.messages(system).map((message) => {
      if (!message.tool_calls) return message;
      const calls = message.tool_calls.map(({ type, function: f }) => ({ type, function: { name: f.name, arguments: JSON.parse(f.arguments || "{}") } }));
      return { ...message, content: message.content ?? "", tool_calls: calls };
    });
    return [tools ? { messages: messages.map(({ tool_call_id, ...rest }) => rest), tools } : { messages: messages.map(({ tool_call_id, ...rest }) => rest) }];
  }
}

function wire(node) {
  if (node.role === "tool") return { role: "tool", tool_call_id: node.call, content: node.content };
  if (node.calls?.length) {
    const calls = node.calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
    return { role: "assistant", content: node.content || null, tool_calls: calls };
  }
  return { role: node.role, content: node.content };
}
