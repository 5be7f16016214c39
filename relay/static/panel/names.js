// Gives names to fields that have none for a screen reader: Django's autocomplete (select2) and check boxes in lists.

function nameOf(field) {
  const label = field.id && document.querySelector(`label[for="${CSS.escape(field.id)}"]`);
  if (label) return label.textContent.trim();
  const cell = field.closest("td");
  const head = cell?.closest("table")?.querySelectorAll("thead th")[cell.cellIndex];
  return (head?.textContent ?? field.name ?? "").trim();
}

function give(field, name) {
  if (field && name && !field.hasAttribute("aria-label")) field.setAttribute("aria-label", name);
}

function nameAll() {
  for (const select of document.querySelectorAll("select.select2-hidden-accessible")) {
    const name = nameOf(select);
    const shown = select.nextElementSibling;
    give(shown?.querySelector(".select2-selection"), name);
    give(shown?.querySelector(".select2-selection__rendered"), name);
    give(shown?.querySelector(".select2-search__field"), name);
  }
  for (const box of document.querySelectorAll("td input[type=checkbox]:not(.action-select)")) give(box, nameOf(box));
}

// select2 makes its fields when the page is there, and in rows that are added later.
new MutationObserver(nameAll).observe(document.documentElement, { childList: true, subtree: true });
nameAll();
