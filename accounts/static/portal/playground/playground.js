// The playground: a conversation with a model, in this page's memory alone.

import { Asking, Problem } from "./asking.js";
import { Pictures } from "./pictures.js";
import { Turn, asked, messagesOf } from "./turn.js";

const find = (id) => document.getElementById(id);
const page = find("playground");
const words = JSON.parse(find("playground-words").textContent);
const [model, about, text, form] = ["model", "about", "text", "composer"].map(find);
const [send, stop, attach, picker, status] = ["send", "stop", "attach", "picker", "status"].map(find);
const LANGUAGE = document.documentElement.lang || undefined;
const IS_TOUCHED = window.matchMedia("(pointer: coarse)").matches;
const KEPT = "kept-conversation";
const CODES_OF_BUSY = new Set(["service_unavailable", "given_up", "server_busy"]);

const asking = new Asking({
  tokenUrl: page.dataset.tokenUrl,
  answerUrl: page.dataset.answerUrl,
});
const pictures = new Pictures(find("pictures"), words, tell);
let turns = [];
let running = null;

// Asking.

async function ask(turn) {
  running = new AbortController();
  showState();
  const { kept } = turn;
  const before = turns.slice(0, turns.indexOf(turn)).flatMap((each) => messagesOf(each.kept, false));
  let id = null;
  try {
    for await (const said of asking.ask(kept.model, [...before, ...messagesOf(kept, true)], running.signal)) {
      id ??= said.id;
      kept.reasoning += said.reasoning ?? "";
      kept.answer += said.text ?? "";
      if (said.finish === "length") kept.state = "length";
      turn.changed();
    }
    if (kept.state === "answering") kept.state = "done";
  } catch (problem) {
    kept.state = running.signal.aborted ? "stopped" : "failed";
    if (!running.signal.aborted) kept.problem = plainly(problem);
  }
  running = null;
  showState();
  turn.changed();
  tell(words.ready);
  if (id !== null) {
    kept.cost = await asking.cost(id).catch(() => null);
    turn.changed();
  }
}

function begin() {
  if (running || (!text.value.trim() && pictures.urls.length === 0)) return;
  const kept = asked(model.value, text.value, pictures.take());
  text.value = "";
  fit();
  ask(add(kept));
  scrollToEnd();
  if (!IS_TOUCHED) text.focus();
}

function askAgain(turn) {
  if (running) return;
  // What followed from the answer goes with it.
  for (const gone of turns.splice(turns.indexOf(turn))) gone.elements.forEach((each) => each.remove());
  ask(add(asked(model.value, turn.kept.text, turn.kept.pictures)));
  scrollToEnd();
}

function scrollToEnd() {
  window.scrollTo({ top: document.body.scrollHeight });
}

function add(kept) {
  const turn = new Turn(kept, words, askAgain);
  turns.push(turn);
  find("conversation").append(...turn.elements);
  showState();
  return turn;
}

function startAnew() {
  running?.abort();
  turns = [];
  find("conversation").replaceChildren();
  pictures.take();
  showState();
  text.focus();
}

// Telling.

function plainly(problem) {
  if (!(problem instanceof Problem)) return { said: words.error_other, details: String(problem.message ?? problem) };
  const { code, message, retryAfter } = problem;
  if (code === "refused") return { said: message };
  const back = retryAfter && comesBack(retryAfter, code === "insufficient_quota");
  return { said: words[code] ?? wordsOf(code), back, details: message };
}

function wordsOf(code) {
  if (words[`error_${code}`]) return words[`error_${code}`];
  if (CODES_OF_BUSY.has(code)) return words.error_busy;
  return code.startsWith("upstream_") ? words.error_upstream : words.error_other;
}

function comesBack(seconds, isBudget) {
  if (seconds < 5400 && !isBudget) {
    const [count, unit] = seconds < 90 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
    const said = new Intl.NumberFormat(LANGUAGE, { style: "unit", unit, unitDisplay: "long" }).format(count);
    return words.back_in.replace("{time}", said);
  }
  const at = new Intl.DateTimeFormat(LANGUAGE, { dateStyle: "medium", timeStyle: "short" });
  const said = isBudget ? words.budget_at : words.back_at;
  return said.replace("{time}", at.format(Date.now() + seconds * 1000));
}

function tell(said) {
  status.textContent = said;
  status.classList.toggle("unseen", said === words.ready);
}

function showState() {
  send.hidden = running !== null;
  stop.hidden = running === null;
  find("empty").hidden = turns.length > 0;
  find("new").disabled = turns.length === 0;
  if (running) tell(words.ready);
}

function describe() {
  const chosen = model.selectedOptions[0];
  about.textContent = chosen.dataset.about;
  attach.disabled = chosen.dataset.pictures === "no";
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, window.innerHeight / 3)}px`;
}

// Another language is another page: the conversation goes there, in this tab only.

function keep() {
  running?.abort();
  const kept = turns.map((turn) => turn.kept);
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(kept));
  } catch {
    // Pictures may be more than a browser keeps.
    sessionStorage.setItem(KEPT, JSON.stringify(kept.map((each) => ({ ...each, pictures: [] }))));
  }
}

function bringBack() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  sessionStorage.removeItem(KEPT);
  for (const each of kept) add(each.state === "answering" ? { ...each, state: "stopped" } : each);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  begin();
});
text.addEventListener("keydown", (event) => {
  // While Chinese is typed, Enter chooses a word. A phone has no other key for a new line.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  if (IS_TOUCHED) return;
  event.preventDefault();
  begin();
});
text.addEventListener("input", fit);
text.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length === 0 || attach.disabled) return;
  event.preventDefault();
  pictures.add(event.clipboardData.files);
});
page.addEventListener("dragover", (event) => event.preventDefault());
page.addEventListener("drop", (event) => {
  event.preventDefault();
  if (!attach.disabled) pictures.add(event.dataTransfer.files);
});
attach.addEventListener("click", () => picker.click());
picker.addEventListener("change", async () => {
  await pictures.add(picker.files);
  picker.value = "";
  text.focus();
});
stop.addEventListener("click", () => {
  running?.abort();
  if (!IS_TOUCHED) text.focus();
});
find("new").addEventListener("click", startAnew);
model.addEventListener("change", describe);
document.addEventListener("leaving", keep);

bringBack();
describe();
showState();
fit();
