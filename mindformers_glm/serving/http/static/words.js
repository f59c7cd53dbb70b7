// What the page says, in both languages.
const WORDS = {
  zh: {
    new: "新对话", export: "导出", language: "English", theme: "明/暗", settings: "设置", send: "发送", stop: "停止",
    hint: "输入消息", input: "输入消息，回车发送，Shift+回车换行", system: "系统提示", temperature: "温度", top_p: "top_p",
    max_tokens: "最多令牌数", seed: "随机种子", tools: "工具（JSON 列表）", key: "API 密钥（只留在本标签页）", model: "模型",
    regenerate: "重新生成", edit: "编辑", copy: "复制", copied: "已复制", remove: "删除", save: "发送修改", cancel: "取消",
    empty: "开始一段对话。内容只保存在这个浏览器里。", conversations: "对话列表", menu: "打开对话列表", close: "关闭",
    result: "的结果", give: "发送结果", calls: "调用", tool: "工具结果", previous: "上一个版本", next: "下一个版本",
    tokens: "个令牌", speed: "个/秒", first: "首个", length: "（达到长度上限）", stopped: "（已停止）", untitled: "新对话",
    gone: "服务器没有回应。它重新启动后，请点“重新生成”。", wrong_key: "API 密钥不对，请在设置中填写。", bad_tools: "工具不是有效的 JSON 列表。",
    ready: "就绪", offline: "没有连接", full: "浏览器的存储空间已满，最新的内容没有保存。", messages: "对话内容", thought: "思考", you: "你", assistant: "模型",
  },
  en: {
    new: "New chat", export: "Export", language: "中文", theme: "Light/dark", settings: "Settings", send: "Send", stop: "Stop",
    hint: "Write a message", input: "Write a message. Enter sends, Shift+Enter breaks the line", system: "System prompt", temperature: "Temperature", top_p: "top_p",
    max_tokens: "Most tokens", seed: "Seed", tools: "Tools (a JSON list)", key: "API key (stays in this tab)", model: "Model",
    regenerate: "Regenerate", edit: "Edit", copy: "Copy", copied: "Copied", remove: "Delete", save: "Send the change", cancel: "Cancel",
    empty: "Begin a conversation. It is kept in this browser alone.", conversations: "Conversations", menu: "Open conversations", close: "Close",
    result: "'s result", give: "Send results", calls: "calls", tool: "Result of a tool", previous: "Previous version", next: "Next version",
    tokens: "tokens", speed: "tokens/s", first: "first after", length: "(at the most tokens)", stopped: "(stopped)", untitled: "New chat",
    gone: "The server does not answer. When it is back, press Regenerate.", wrong_key: "The API key is wrong. Give it in the settings.", bad_tools: "The tools are no JSON list.",
    ready: "ready", offline: "not connected", full: "The browser's storage is full: the newest is not kept.", messages: "Conversation", thought: "Thought", you: "You", assistant: "Model",
  },
};

let chosen = localStorage.getItem("glm.language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export const word = (name) => WORDS[chosen][name] ?? name;
export const language = () => chosen;
export function switchLanguage() {
  chosen = chosen === "zh" ? "en" : "zh";
  localStorage.setItem("glm.language", chosen);
}
