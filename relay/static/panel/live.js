// The page of live traffic: shows what the server tells each second, and asks it to stop a request.

const words = JSON.parse(document.getElementById("live-words").textContent);
const body = document.getElementById("live-rows");
const filter = document.getElementById("live-filter");
const state = document.getElementById("live-state");
const MOST_ENDED = 100;
const NOT_ALLOWED = 4403;

// By id, in the order in which they were told.
const rows = new Map();
const lines = new Map();
const stopping = new Set();
let socket = null;
let clockSkew = 0;
let pause = 500;

const { timeZone } = document.querySelector("[data-time-zone]").dataset;
const time = new Intl.DateTimeFormat(document.documentElement.lang || undefined, { timeStyle: "medium", timeZone });
const number = new Intl.NumberFormat(document.documentElement.lang || undefined);

function connect() {
  const url = new URL("/ws/live/", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(url);
  socket.addEventListener("open", () => {
    pause = 500;
    rows.clear();
    for (const line of lines.values()) line.remove();
    lines.clear();
    show("live-connected");
  });
  socket.addEventListener("message", (event) => take(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => {
    if (event.code === NOT_ALLOWED) return show("live-refused");
    show("live-connecting");
    // The server may be changing its workers.
    setTimeout(connect, pause);
    pause = Math.min(pause * 2, 10000);
  });
}

function show(shown) {
  for (const id of ["live-connecting", "live-connected", "live-refused"]) {
    document.getElementById(id).hidden = id !== shown;
  }
}

function take(told) {
  clockSkew = Date.now() / 1000 - told.now;
  if (told.stopping) stopping.add(told.stopping);
  for (const row of told.rows) rows.set(row.id, row);
  const ended = [...rows.values()].filter((row) => row.outcome !== "open");
  for (const row of ended.slice(0, -MOST_ENDED)) {
    rows.delete(row.id);
    stopping.delete(row.id);
    lines.get(row.id)?.remove();
    lines.delete(row.id);
  }
  draw();
}

function draw() {
  let open = 0;
  let shown = 0;
  // Each new line is put above the others.
  for (const row of [...rows.values()].sort((a, b) => a.started_at - b.started_at)) {
    open += row.outcome === "open";
    const line = lines.get(row.id) ?? made(row);
    fill(line, row);
    line.hidden = !isWanted(row);
    shown += !line.hidden;
  }
  document.getElementById("live-count").textContent = number.format(open);
  document.getElementById("live-empty").hidden = shown > 0;
}

function isWanted(row) {
  const text = filter.value.trim().toLowerCase();
  const said = [row.team_name, row.user_name, row.model, row.bot].join("\n").toLowerCase();
  return (!state.value || row.outcome === state.value) && said.includes(text);
}

const CELLS = ["began", "user", "model", "state", "seconds", "tokens", "points", "key"];
const NUMBERS = new Set(["seconds", "tokens", "points"]);

function made(row) {
  const line = document.createElement("tr");
  line.className = "border-b border-base-200 dark:border-base-800";
  for (const name of CELLS) {
    const cell = line.insertCell();
    cell.dataset.is = name;
    if (NUMBERS.has(name)) cell.className = "live-number";
    cell.append(document.createElement("span"));
  }
  const button = document.createElement("button");
  button.type = "button";
  button.className = "live-stop border border-base-200 cursor-pointer px-2 py-1 rounded-default dark:border-base-700";
  button.addEventListener("click", () => socket.send(JSON.stringify({ stop: row.id })));
  line.cells[CELLS.indexOf("state")].append(button);
  body.prepend(line);
  lines.set(row.id, line);
  return line;
}

function fill(line, row) {
  const isOpen = row.outcome === "open";
  const seconds = isOpen ? Date.now() / 1000 - clockSkew - row.started_at : (row.total_ms ?? 0) / 1000;
  const texts = {
    began: time.format(new Date(row.started_at * 1000)),
    user: `${row.user_name} (${row.team_name})`,
    model: row.model.toLowerCase() === row.bot.toLowerCase() ? row.bot : `${row.model} → ${row.bot}`,
    key: row.key_name,
    state: words[row.outcome] + (row.error_code ? ` (${row.error_code})` : ""),
    seconds: Math.max(0, seconds).toFixed(1),
    tokens: `${number.format(row.prompt_tokens)} + ${number.format(row.completion_tokens)}`,
    points: number.format(row.points),
  };
  for (const cell of line.cells) {
    const said = cell.firstElementChild;
    if (said.textContent !== texts[cell.dataset.is]) said.textContent = texts[cell.dataset.is];
  }
  line.classList.toggle("live-ended", !isOpen);
  const button = line.querySelector("button");
  button.hidden = !isOpen;
  button.disabled = stopping.has(row.id);
  button.textContent = stopping.has(row.id) ? words.stopping : words.stop;
  button.setAttribute("aria-label", `${button.textContent}: ${row.user_name}, ${row.model}`);
}

filter.addEventListener("input", draw);
state.addEventListener("change", draw);
connect();
