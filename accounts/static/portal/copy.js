// A button that copies what stands before it: <code>...</code><button data-copy data-copied="Copied">Copy</button>

const SHOWN_MS = 2000;

// Browsers keep navigator.clipboard to https and this machine; a relay on the local network may have neither.
function copySelected(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  const copied = document.execCommand("copy");
  if (copied) selection.removeAllRanges();
  return copied;
}

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    return copySelected(element);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button || button.dataset.said || !(await copy(button.previousElementSibling))) return;
  button.dataset.said = button.textContent;
  button.textContent = button.dataset.copied;
  setTimeout(() => {
    button.textContent = button.dataset.said;
    delete button.dataset.said;
  }, SHOWN_MS);
});
