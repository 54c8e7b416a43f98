() => document.addEventListener("keydown", event => {
  // Ctrl+Enter submits; gradio itself handles Shift+Enter only.
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest("#ask")) {
    event.preventDefault();
    document.querySelector("#find").click();
  }
})
