import { drawn } from "./qr.js";

document.querySelector("[data-print]").addEventListener("click", () => print());

for (const place of document.querySelectorAll(".scan")) {
  place.replaceChildren(await drawn(place.dataset.address, place.dataset.label, place.dataset.qrcode));
}
