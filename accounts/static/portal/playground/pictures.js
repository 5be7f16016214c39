// Pictures that go with a message: picked, pasted or dropped. What is larger than bots look at is made smaller first.

import { element } from "./markdown.js";

const TYPES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);
const MOST = 4;
const MOST_BYTES = 30_000_000;
const KEPT_BYTES = 2_000_000;
const MOST_PIXELS_ACROSS = 2048;

export class Pictures {
  // As data URLs.
  urls = [];
  #shelf;
  #words;
  #tell;

  constructor(shelf, words, tell) {
    this.#shelf = shelf;
    this.#words = words;
    this.#tell = tell;
  }

  async add(files) {
    this.#tell(this.#words.ready);
    for (const file of files) {
      const problem = this.#problem(file);
      const url = problem ? null : await readSmall(file).catch(() => null);
      if (url === null) this.#tell(problem ?? this.#words.unreadable);
      else this.urls.push(url);
    }
    this.#draw();
  }

  #problem(file) {
    if (this.urls.length >= MOST) return this.#words.too_many.replace("{most}", MOST);
    if (!TYPES.has(file.type)) return this.#words.not_a_picture;
    return file.size > MOST_BYTES ? this.#words.too_large : null;
  }

  take() {
    const taken = this.urls;
    this.urls = [];
    this.#draw();
    return taken;
  }

  #draw() {
    this.#shelf.replaceChildren(...this.urls.map((url, place) => this.#item(url, place)));
    this.#shelf.hidden = this.urls.length === 0;
  }

  #item(url, place) {
    const label = `${this.#words.remove}: ${this.#words.picture} ${place + 1}`;
    const remove = element("button", { type: "button", className: "quiet", textContent: "✕", title: label });
    remove.setAttribute("aria-label", label);
    remove.addEventListener("click", () => {
      this.urls.splice(place, 1);
      this.#draw();
    });
    return element("li", {}, [thumbnail(url, `${this.#words.picture} ${place + 1}`), remove]);
  }
}

export function thumbnail(url, alt) {
  return element("img", { src: url, alt, className: "thumbnail" });
}

async function readSmall(file) {
  const bitmap = await createImageBitmap(file);
  const across = Math.max(bitmap.width, bitmap.height);
  if (across <= MOST_PIXELS_ACROSS && file.size <= KEPT_BYTES) return await dataUrl(file);
  const scale = Math.min(1, MOST_PIXELS_ACROSS / across);
  const canvas = element("canvas", {
    width: Math.round(bitmap.width * scale),
    height: Math.round(bitmap.height * scale),
  });
  const pen = canvas.getContext("2d");
  // JPEG knows no transparency, and would make it black.
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.85);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}
