// What every part of the page asks: elements, the conversations that are kept, settings, words and theme.
import { Fault, models } from "./api.js";
import { Store } from "./store.js";
import { language, word } from "./words.js";

export const $ = (id) => document.getElementById(id);
export const store = new Store();
export const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

export const make = (name, className, ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
};
export const button = (label, act, className = "plain") => {
  const made = make("button", className, label);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};

export function tellWords() {
  document.documentElement.lang = language();
  for (const name of ["new", "export", "language", "theme", "send", "stop"]) $(name).textContent = word(name);
  $("settings-button").textContent = word("settings");
  $("open-sidebar").textContent = "☰";
  $("close-sidebar").textContent = "✕";
  $("open-sidebar").ariaLabel = word("menu");
  $("close-sidebar").ariaLabel = word("close");
  $("input").placeholder = word("hint");
  $("input").title = word("input");
  $("input").ariaLabel = word("input");
  $("model").ariaLabel = word("model");
  $("messages").ariaLabel = word("messages");
  $("conversations").ariaLabel = word("conversations");
  for (const span of document.querySelectorAll("[data-word]")) span.textContent = word(span.dataset.word);
}

export function setTheme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("glm.theme", name);
}

export const settings = () => Object.fromEntries(["system", "tools", "model", ...NUMBERS].map((name) => [name, $(name).value]));

export function showSettings(given) {
  for (const name of ["system", "tools", ...NUMBERS]) $(name).value = given?.[name] ?? "";
  if (given?.model && [...$("model").options].some((option) => option.value === given.model)) $("model").value = given.model;
}

export function keepSettings() {
  localStorage.setItem("glm.settings", JSON.stringify(settings()));
  if (store.current) store.current.settings = settings();
  keep();
}

export function tools() {
  const text = $("tools").value.trim();
  if (!text) return null;
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Fault("tools", "");
  }
  if (!Array.isArray(given)) throw new Fault("tools", "");
  return given.map((tool) => (tool.type === "function" ? tool : { type: "function", function: tool }));
}

export function keep() {
  if (!store.save()) $("state").textContent = word("full");
}

export async function connect() {
  try {
    const names = await models();
    const before = $("model").value || store.current?.settings?.model;
    $("model").replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(before)) $("model").value = before;
    $("state").textContent = word("ready");
    return true;
  } catch (error) {
    $("state").textContent = error.kind === "key" ? word("wrong_key") : word("offline");
    if (error.kind === "key") openSettings(true);
    return false;
  }
}

export function openSettings(open = $("settings").hidden) {
  $("settings").hidden = !open;
  $("settings-button").ariaExpanded = String(open);
}
