// A form is sent once: a second click on its button would make a second token, whose first one nobody has seen.

for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}

// Back from the next page, in a browser that kept this one as it was.
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});
