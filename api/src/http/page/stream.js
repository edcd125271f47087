// Server-sent events by fetch: an EventSource could send no token.

// Calls `take` with the name and the data of each event, until the stream ends.
async function readEvents(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const messages = text.split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const fields = { event: "message", data: "" };
      for (const line of message.split("\n")) {
        // A line without a name is a comment, which keeps the connection open.
        const colon = line.indexOf(":");
        const name = line.slice(0, Math.max(colon, 0));
        if (name === "event" || name === "data") fields[name] = line.slice(colon + 1).replace(/^ /, "");
      }
      if (fields.data) take(fields.event, JSON.parse(fields.data));
    }
  }
}
