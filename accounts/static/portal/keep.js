// Another language is another page: what was typed so far comes along, in this tab only, and is forgotten when it is there.

const KEPT = `kept:${location.pathname}`;
const LEFT_OUT = new Set(["password", "hidden", "file", "submit"]);

function fields() {
  return [...document.querySelectorAll("main input, main select, main textarea")].filter(
    (field) => !LEFT_OUT.has(field.type) && (field.name || field.id),
  );
}

function keep() {
  const values = fields().map((field) => [
    field.name || field.id,
    field.type === "checkbox" || field.type === "radio" ? field.checked : field.value,
  ]);
  sessionStorage.setItem(KEPT, JSON.stringify(values));
}

function bringBack() {
  const kept = sessionStorage.getItem(KEPT);
  if (kept === null) return;
  sessionStorage.removeItem(KEPT);
  const values = JSON.parse(kept);
  fields().forEach((field, place) => {
    const [name, value] = values[place] ?? [];
    if (name !== (field.name || field.id)) return;
    if (typeof value === "boolean") field.checked = value;
    else field.value = value;
  });
  document.dispatchEvent(new CustomEvent("brought-back"));
}

document.querySelector("[data-language]")?.addEventListener("submit", () => {
  keep();
  document.dispatchEvent(new CustomEvent("leaving"));
});
bringBack();
