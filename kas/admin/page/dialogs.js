// What is asked before something ends, and what is shown once.

/** Whether whoever sits here means it: `yes` says what they choose. */
export async function confirmed({ title, what, yes }) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-what").textContent = what;
  dialog.querySelector('button[value="yes"]').textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  await closed(dialog);
  return dialog.returnValue === "yes";
}

/** Shows a text to be copied, until it is closed; nothing of it stays on the page then. */
export async function showText({ title, what, text }) {
  const dialog = document.getElementById("text");
  const [place, told] = [document.getElementById("text-text"), document.getElementById("text-told")];
  document.getElementById("text-title").textContent = title;
  document.getElementById("text-what").textContent = what;
  place.textContent = text;
  told.textContent = "";
  const copy = document.getElementById("text-copy");
  const copying = async () => { told.textContent = await copied(text, place); };
  copy.addEventListener("click", copying);
  dialog.showModal();
  await closed(dialog);
  copy.removeEventListener("click", copying);
  place.textContent = "";
}

/** Copies a text, or selects it where a browser does not let pages copy; says which in words. */
export async function copied(text, place) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied.";
  } catch {
    getSelection().selectAllChildren(place);
    return "This browser does not let a page copy here: the text is selected, copy it by the keyboard.";
  }
}

const closed = (dialog) => new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
