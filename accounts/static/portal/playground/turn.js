// One question and its answer on the page. Its `kept` is all that there is to know of it.

import { Drawing, element } from "./markdown.js";
import { thumbnail } from "./pictures.js";

const LANGUAGE = document.documentElement.lang || undefined;
const number = new Intl.NumberFormat(LANGUAGE);

export function asked(model, text, pictures) {
  return { model, text, pictures, answer: "", reasoning: "", state: "answering", problem: null, cost: null };
}

// What the API is told of it; nothing of a question that nobody answered, unless it is asked now.
export function messagesOf(kept, isAskedNow) {
  if (!isAskedNow && !kept.answer) return [];
  const pictures = kept.pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  const content = pictures.length ? [{ type: "text", text: kept.text }, ...pictures] : kept.text;
  const question = { role: "user", content };
  return isAskedNow ? [question] : [question, { role: "assistant", content: kept.answer }];
}

export class Turn {
  #words;
  #answer = element("div", { className: "answer" });
  #reasoning = element("div", { className: "thoughts", dir: "auto" });
  #summary = element("summary");
  #thinking;
  #notes = element("div", { className: "after" });
  #drawing = new Drawing(this.#answer);
  #frame = 0;

  constructor(kept, words, askAgain) {
    this.kept = kept;
    this.#words = words;
    this.askAgain = askAgain;
    this.#thinking = element("details", { className: "reasoning" }, [this.#summary, this.#reasoning]);
    this.#thinking.hidden = true;
    const pictures = kept.pictures.map((url, place) => thumbnail(url, `${words.picture} ${place + 1}`));
    const question = element("article", { className: "question" }, [
      element("p", { className: "who", textContent: words.you }),
      ...pictures,
      element("p", { className: "said", dir: "auto", textContent: kept.text }),
    ]);
    const answer = element("article", { className: "reply" }, [
      element("p", { className: "who", textContent: kept.model }),
      this.#thinking,
      this.#answer,
      this.#notes,
    ]);
    this.elements = [question, answer];
    this.draw();
  }

  // At most once for each frame that the browser shows, however many pieces come.
  changed() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const isAtEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
      this.draw();
      if (isAtEnd) window.scrollTo({ top: document.body.scrollHeight });
    });
  }

  draw() {
    const { answer, reasoning, state } = this.kept;
    this.#drawing.show(answer);
    this.#thinking.hidden = !reasoning;
    if (this.#reasoning.textContent !== reasoning) this.#reasoning.textContent = reasoning;
    const isThinking = state === "answering" && !answer;
    this.#summary.textContent = isThinking ? this.#words.reasoning_now : this.#words.reasoning;
    this.elements[1].setAttribute("aria-busy", String(state === "answering"));
    if (state === "answering") {
      const dots = element("p", { className: "soft waiting", textContent: this.#words.answering });
      this.#notes.replaceChildren(...(answer ? [] : [dots]));
    } else this.#notes.replaceChildren(...this.#said());
  }

  #said() {
    const { answer, state, problem, cost } = this.kept;
    const found = [];
    if (problem) found.push(this.#problem(problem));
    else if (state === "stopped") found.push(note(this.#words.stopped));
    else if (state === "length") found.push(note(this.#words.cut));
    else if (!answer) found.push(note(this.#words.empty_answer));
    if (cost) found.push(this.#facts(cost));
    found.push(this.#buttons());
    return found;
  }

  #problem({ said, back, details }) {
    const children = [element("p", { textContent: back ? `${said} ${back}` : said })];
    if (details && details !== said) {
      children.push(
        element("details", {}, [
          element("summary", { textContent: this.#words.details }),
          element("p", { textContent: details, dir: "auto" }),
        ]),
      );
    }
    const box = element("div", { className: "problem" }, children);
    box.setAttribute("role", "alert");
    return box;
  }

  #facts(cost) {
    const points = number.format(cost.points) + (cost.is_own ? ` (${this.#words.own_key})` : "");
    const tokens = this.#words.tokens_of
      .replace("{prompt}", number.format(cost.prompt_tokens))
      .replace("{answer}", number.format(cost.completion_tokens));
    const facts = [
      [this.#words.points, points, "points"],
      [this.#words.tokens, tokens, "tokens"],
      [this.#words.first_byte, this.#seconds(cost.first_byte_ms), "first-byte"],
      [this.#words.total, this.#seconds(cost.total_ms), "total"],
    ];
    const shown = facts.filter(([, value]) => value !== null);
    return element(
      "dl",
      { className: "facts" },
      shown.map(([label, value, name]) => {
        const fact = element("dd", { textContent: value });
        fact.dataset.fact = name;
        return element("div", {}, [element("dt", { textContent: label }), fact]);
      }),
    );
  }

  #seconds(milliseconds) {
    if (milliseconds === null) return null;
    const digits = milliseconds < 1000 ? 2 : 1;
    const format = new Intl.NumberFormat(LANGUAGE, { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return this.#words.seconds.replace("{seconds}", format.format(milliseconds / 1000));
  }

  #buttons() {
    const again = element("button", { type: "button", className: "quiet", textContent: this.#words.again });
    again.addEventListener("click", () => this.askAgain(this));
    const copy = element("button", { type: "button", className: "quiet", textContent: this.#words.copy });
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(this.kept.answer);
      copy.textContent = this.#words.copied;
    });
    // Browsers have a clipboard only for pages that came over https or from this machine.
    const mayCopy = this.kept.answer && navigator.clipboard;
    return element("div", { className: "row" }, mayCopy ? [copy, again] : [again]);
  }
}

function note(text) {
  return element("p", { className: "soft", textContent: text });
}
