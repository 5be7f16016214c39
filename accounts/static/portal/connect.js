// Fills the token and the model into fields, links and QR codes. Nothing here sends anything: the token stays in this page.
import { drawn } from "./qr.js";

const section = document.querySelector("[data-connect]");
const source = document.querySelector("[data-token]");
const chooser = section.querySelector("[data-model]");
const nextchat = section.querySelector("[data-nextchat]");
const { base } = section.dataset;
// Another relay's settings in the same app stay what they are.
const id = `poe-relay-${new URL(base).host.replace(/[^a-z0-9]+/g, "-")}`;

function base64(value) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(value))));
}

const LINKS = {
  chatbox(token, model) {
    const settings = { apiHost: base, apiKey: token, models: model ? [{ modelId: model }] : [] };
    const config = { id, name: "poe-relay", type: "openai", settings };
    return `chatbox://provider/import?config=${encodeURIComponent(base64(config))}`;
  },
  "cherry-studio"(token) {
    const data = base64({ id, baseUrl: base, apiKey: token, name: "poe-relay", type: "openai" });
    // It reads `_` as `+` and `-` as `/`: the other way round than base64url.
    return `cherrystudio://providers/api-keys?v=1&data=${data.replaceAll("+", "_").replaceAll("/", "-").replace(/=+$/, "")}`;
  },
  nextchat(token) {
    const settings = JSON.stringify({ key: token, url: base });
    return `${nextchat.value.trim().replace(/\/+$/, "")}/#/?settings=${encodeURIComponent(settings)}`;
  },
};

function tokenNow() {
  const text = (source instanceof HTMLInputElement ? source.value : source.textContent).trim();
  return /^[\x21-\x7e]+$/.test(text) ? text : "";
}

function isWebAddress(text) {
  try {
    return ["https:", "http:"].includes(new URL(text).protocol);
  } catch {
    return false;
  }
}

function linkOf(app, token, model) {
  const build = LINKS[app];
  if (!token || !build || (app === "nextchat" && !isWebAddress(nextchat.value))) return "";
  return build(token, model);
}

function fill() {
  const token = tokenNow();
  const model = chooser?.value ?? "";
  for (const place of section.querySelectorAll("[data-fill=token]")) place.textContent = token || "sk-poe-…";
  for (const place of section.querySelectorAll("[data-fill=model]")) place.textContent = model || "…";
  for (const button of section.querySelectorAll("[data-copy]")) {
    button.disabled = !token && button.previousElementSibling.querySelector("[data-fill=token]") !== null;
  }
  for (const part of document.querySelectorAll("[data-without-token]")) part.hidden = token !== "";
  for (const part of section.querySelectorAll("[data-with-token]")) part.hidden = token === "";
  for (const app of section.querySelectorAll("[data-app]")) fillApp(app, token, model);
}

function fillApp(app, token, model) {
  const link = linkOf(app.dataset.app, token, model);
  const button = app.querySelector("[data-link]");
  if (button) {
    button.hidden = link === "";
    if (link) button.href = link;
    else button.removeAttribute("href");
  }
  app.querySelector("[data-qr]").dataset.qr = link || token;
  if (app.open) draw(app);
}

async function draw(app) {
  const place = app.querySelector("[data-qr]");
  const text = place.dataset.qr;
  if (!text) return place.replaceChildren();
  const picture = await drawn(text, place.dataset.label, section.dataset.qrcode);
  if (text === place.dataset.qr) place.replaceChildren(picture);
}

source.addEventListener("input", fill);
chooser?.addEventListener("change", fill);
nextchat.addEventListener("input", fill);
for (const app of section.querySelectorAll("[data-app]")) app.addEventListener("toggle", () => app.open && draw(app));
fill();
