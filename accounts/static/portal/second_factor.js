// The QR code from which an authenticator app reads the secret.
import { drawn } from "./qr.js";

const place = document.querySelector("[data-address]");
place.replaceChildren(await drawn(place.dataset.address, place.dataset.label, place.dataset.qrcode));
