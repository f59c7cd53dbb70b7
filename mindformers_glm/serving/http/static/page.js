import { chat } from "./api.js";
import { markdown } from "./markdown.js";
import {
  $,
  NUMBERS,
  button,
  connect,
  keep,
  keepSettings,
  make,
  openSettings,
  setTheme,
  settings,
  showSettings,
  store,
  tellWords,
  tools,
} from "./settings.js";
import { switchLanguage, word } from "./words.js";

let working = null; // AbortController of the answer on its way
let editing = null; // id of the message that is being edited

// --- what is shown ----------------------------------------------------------------------------------------------------

function show() {
  showConversations();
  const path = store.current ? store.path() : [];
  $("messages").replaceChildren(...(path.length ? path.map(message) : [make("p", "empty", word("empty"))]));
  const last = path[path.length - 1];
  if (last?.calls?.length && !working) $("messages").append(resultForm(last));
  $("send").hidden = Boolean(working);
  $("stop").hidden = !working;
}

function showConversations() {
  $("conversations").replaceChildren(
    ...store.all.map((one) => {
      const title = button(one.title || word("untitled"), () => open(one), "title");
      const gone = button("✕", () => {
        if (working && one === store.current) return;
        store.remove(one.id);
        keep();
        show();
      });
      gone.ariaLabel = `${word("remove")}: ${one.title || word("untitled")}`;
      const entry = make("div", "entry", title, gone);
      entry.ariaCurrent = String(one === store.current);
      return entry;
    }),
  );
}

function open(one) {
  working?.abort();
  store.current = one;
  showSettings(one.settings);
  document.body.classList.remove("side-open");
  show();
  $("input").focus();
}

function message(node) {
  const body = make("div", "body");
  body.dataset.node = node.id;
  fill(body, node);
  const made = make("article", `message ${node.role}`, body);
  made.ariaLabel = { user: word("you"), tool: word("tool") }[node.role] ?? word("assistant");
  if (editing === node.id) made.replaceChildren(editForm(node));
  else if (!node.open) made.append(tail(node));
  return made;
}

function fill(body, node) {
  if (node.role !== "assistant") {
    body.textContent = node.content;
    return;
  }
  body.replaceChildren();
  if (node.reasoning) body.append(make("div", "thought", `${word("thought")}\n${node.reasoning}`));
  body.append(markdown(node.content));
  for (const call of node.calls ?? []) {
    body.append(make("div", "call", `${word("calls")} `, make("strong", "", call.name), make("pre", "", make("code", "", call.arguments))));
  }
  if (node.fault) {
    const fault = make("p", "fault", node.fault);
    fault.role = "alert";
    body.append(fault);
  }
  body.classList.toggle("cursor", Boolean(node.open));
}

function tail(node) {
  const made = make("div", "tail");
  const siblings = store.siblings(node);
  if (siblings.length > 1) {
    const place = siblings.findIndex((other) => other.id === node.id);
    const go = (to) => () => {
      if (working || !siblings[to]) return;
      store.go(siblings[to]);
      keep();
      show();
    };
    const [back, on] = [button("‹", go(place - 1)), button("›", go(place + 1))];
    back.ariaLabel = word("previous");
    on.ariaLabel = word("next");
    made.append(back, `${place + 1}/${siblings.length}`, on);
  }
  if (node.role === "user") {
    made.append(button(word("edit"), () => {
      if (working) return;
      editing = node.id;
      show();
      document.querySelector(".edit textarea").focus();
    }));
  }
  if (node.role === "assistant") {
    if (node.content) {
      const copy = button(word("copy"), async () => {
        await navigator.clipboard.writeText(node.content);
        copy.textContent = word("copied");
      });
      made.append(copy);
    }
    made.append(button(word("regenerate"), () => working || answer(node.parent)));
    if (node.figures) made.append(make("span", "figures", node.figures));
    if (node.end) made.append(word(node.end));
  }
  return made;
}

function editForm(node) {
  const area = make("textarea");
  area.value = node.content;
  area.rows = Math.min(10, node.content.split("\n").length + 1);
  area.ariaLabel = word("edit");
  const done = () => {
    editing = null;
    if (area.value.trim()) {
      const made = store.add({ role: "user", content: area.value }, node.parent);
      answer(made.id);
    } else show();
  };
  const leave = () => {
    editing = null;
    show();
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      done();
    } else if (event.key === "Escape") leave();
  });
  return make("div", "edit", area, button(word("save"), done, ""), button(word("cancel"), leave));
}

function resultForm(node) {
  const form = make("form", "message call");
  const areas = node.calls.map((call) => {
    const area = make("textarea");
    area.rows = 2;
    area.ariaLabel = `${call.name}${word("result")}`;
    form.append(make("label", "", area.ariaLabel), area);
    return area;
  });
  const send = make("button", "", word("give"));
  send.type = "submit";
  form.append(send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    areas.forEach((area, place) => store.add({ role: "tool", call: node.calls[place].id, content: area.value }));
    answer(store.current.leaf);
  });
  return form;
}

// --- asking -----------------------------------------------------------------------------------------------------------

function say(text) {
  if (!store.current) store.begin(settings());
  let last = store.path().pop();
  if (last?.role === "assistant" && !last.content && !last.calls) last = store.current.nodes[last.parent]; // nothing came
  else if (last?.role !== "user") last = null;
  const node = store.add({ role: "user", content: text }, last ? last.parent : store.current.leaf);
  answer(node.id);
}

async function answer(parent) {
  if (working) return;
  store.current.leaf = parent;
  const conversation = store.current;
  const control = (working = new AbortController());
  let node = null;
  const begin = performance.now();
  let first = null;
  let pending = false;
  const box = $("messages");
  const draw = () => {
    pending = false;
    const body = box.querySelector(`[data-node="${node.id}"]`);
    if (!body) return;
    const below = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
    fill(body, node);
    if (below) box.scrollTop = box.scrollHeight;
  };
  let usage = null;
  try {
    const offered = tools();
    const body = {
      model: $("model").value || undefined,
      messages: store.messages($("system").value.trim()),
      stream: true,
      stream_options: { include_usage: true },
      ...(offered ? { tools: offered } : {}),
    };
    for (const name of NUMBERS) if ($(name).value !== "") body[name] = Number($(name).value);
    node = store.add({ role: "assistant", content: "", open: true }, parent);
    show();
    box.scrollTop = box.scrollHeight;
    for await (const chunk of chat(body, control.signal)) {
      usage = chunk.usage ?? usage;
      for (const choice of chunk.choices) {
        const delta = choice.delta;
        if (delta.content || delta.reasoning_content || delta.tool_calls) first ??= performance.now();
        node.content += delta.content ?? "";
        if (delta.reasoning_content) node.reasoning = (node.reasoning ?? "") + delta.reasoning_content;
        for (const call of delta.tool_calls ?? []) take(node, call);
        if (choice.finish_reason === "length") node.end = "length";
      }
      if (!pending) {
        pending = true;
        setTimeout(draw, 40);
      }
    }
    $("state").textContent = word("ready");
  } catch (error) {
    node ??= store.add({ role: "assistant", content: "" }, parent);
    if (error.name === "AbortError") node.end = "stopped";
    else node.fault = { gone: word("gone"), key: word("wrong_key"), tools: word("bad_tools") }[error.kind] ?? error.message;
    if (error.kind === "key") openSettings(true);
    if (error.kind === "gone") watch();
  } finally {
    delete node.open;
    if (node.calls) cut(node);
    if (usage) node.figures = figures(usage.completion_tokens, begin, first ?? performance.now());
    working = null;
    keep();
    if (store.current === conversation) {
      const below = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
      show();
      if (below) box.scrollTop = box.scrollHeight; // buttons, and the form of a call, come at the end
    }
  }
}

function take(node, call) {
  node.calls ??= [];
  const mine = (node.calls[call.index] ??= { id: "", name: "", arguments: "" });
  if (call.id) mine.id = call.id;
  mine.name += call.function?.name ?? "";
  mine.arguments += call.function?.arguments ?? "";
}

// A call that was stopped in its arguments is text: nobody can answer it.
function cut(node) {
  const isWhole = (call) => {
    try {
      return Boolean(JSON.parse(call.arguments));
    } catch {
      return false;
    }
  };
  for (const call of node.calls.filter((call) => !isWhole(call))) node.content += `${call.name}\n${call.arguments}`;
  node.calls = node.calls.filter(isWhole);
  if (!node.calls.length) delete node.calls;
}

function figures(tokens, begin, first) {
  const seconds = (performance.now() - first) / 1000;
  const speed = tokens > 1 && seconds > 0 ? ` · ${((tokens - 1) / seconds).toFixed(1)} ${word("speed")}` : "";
  return `${tokens} ${word("tokens")}${speed} · ${word("first")} ${((first - begin) / 1000).toFixed(2)} s`;
}

// Until the server is back.
let watching = false;
async function watch() {
  if (watching) return;
  watching = true;
  $("state").textContent = word("offline");
  while (!(await connect())) await new Promise((resume) => setTimeout(resume, 2000));
  watching = false;
}

function save() {
  if (!store.current) return;
  let offered = null;
  try {
    offered = tools();
  } catch {
    $("state").textContent = word("bad_tools");
    return;
  }
  const text = JSON.stringify(store.training($("system").value.trim(), offered?.map((tool) => tool.function)), null, 1);
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "conversation.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- the user ---------------------------------------------------------------------------------------------------------

function send() {
  const text = $("input").value;
  if (!text.trim() || working) return;
  $("input").value = "";
  grow();
  say(text);
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight + 2}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (working) working.abort();
    else document.body.classList.remove("side-open");
  }
});
$("stop").addEventListener("click", () => working?.abort());
$("new").addEventListener("click", () => {
  working?.abort();
  if (!store.current || store.current.leaf) store.begin(settings());
  open(store.current);
});
$("export").addEventListener("click", save);
$("language").addEventListener("click", () => {
  switchLanguage();
  tellWords();
  show();
});
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
$("open-sidebar").addEventListener("click", () => document.body.classList.add("side-open"));
$("close-sidebar").addEventListener("click", () => document.body.classList.remove("side-open"));
$("settings-button").addEventListener("click", () => openSettings());
for (const name of ["system", "tools", "model", ...NUMBERS]) $(name).addEventListener("change", keepSettings);
$("key").addEventListener("change", () => {
  sessionStorage.setItem("glm.key", $("key").value.trim());
  connect();
});

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
setTheme(localStorage.getItem("glm.theme") ?? (dark ? "dark" : "light"));
tellWords();
for (const one of store.all) for (const node of Object.values(one.nodes ?? {})) delete node.open; // the page was left while it came
let usual = null;
try {
  usual = JSON.parse(localStorage.getItem("glm.settings"));
} catch { /* as if none were kept */ }
showSettings(store.current?.settings ?? usual);
show();
connect().then((connected) => connected || watch());
