// The token of this page's calls, where the API asks for one. It is kept for as long as the tab is open, and is sent to
// this server alone.

const token = { value: "", changed: () => {} };
try {
  token.value = sessionStorage.getItem("token") || "";
} catch (error) {
  // Storage may be forbidden: the token is kept until the page is left.
}

function withToken(headers) {
  return token.value ? { ...headers, authorization: "Bearer " + token.value } : headers;
}

function keepToken(value) {
  token.value = value;
  byId("token-forget").hidden = !value;
  byId("token-ask").hidden = true;
  try {
    if (value) sessionStorage.setItem("token", value);
    else sessionStorage.removeItem("token");
  } catch (error) {
    // As above.
  }
}

// Asks for a token, once at a time.
function askForToken(why) {
  const dialog = byId("token-dialog");
  byId("token-ask").hidden = false;
  byId("token-problem").textContent = token.value ? why : "";
  if (dialog.open) return;
  byId("token-value").value = "";
  dialog.showModal();
}

byId("token-form").addEventListener("submit", () => {
  keepToken(byId("token-value").value.trim());
  token.changed();
});
byId("token-forget").addEventListener("click", () => {
  keepToken("");
  // What was shown by it goes, too.
  location.reload();
});
byId("token-ask").addEventListener("click", () => askForToken(""));
keepToken(token.value);
