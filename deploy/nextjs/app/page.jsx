"use client";

import { useChat } from "@ai-sdk/react";
import { useEffect, useState } from "react";
import { history, sessionId, stentTransport, words } from "./stent.js";

export default function Page() {
  const [id, setId] = useState(null);
  // The id lies in the browser, where this page is not rendered first.
  useEffect(() => setId(sessionId()), []);
  return id ? <Chat id={id} /> : null;
}

function Chat({ id }) {
  const [transport] = useState(stentTransport);
  const [position, setPosition] = useState(null);
  const [question, setQuestion] = useState("");
  const { messages, setMessages, sendMessage, regenerate, stop, status, error } = useChat({
    id,
    transport,
    onData: ({ data }) => setPosition(data.queued?.position ?? null),
  });
  const busy = status === "submitted" || status === "streaming";

  useEffect(() => {
    history(id).then((said) => said.length && setMessages((now) => (now.length ? now : said)));
  }, [id, setMessages]);

  function send(event) {
    event.preventDefault();
    if (!question.trim() || busy) return;
    setPosition(null);
    sendMessage({ text: question });
    setQuestion("");
  }

  return (
    <main>
      <h1>Chat</h1>
      <div role="log" aria-busy={busy}>
        {messages.map((message) => (
          <article key={message.id} className={message.role}>
            {message.parts.map((part, at) => (
              part.type === "text" ? <p key={at}>{part.text}</p>
                : part.type === "data-stent" ? <Strip key={at} {...part.data} /> : null
            ))}
          </article>
        ))}
        {status === "submitted" && <p className="state">{position ? `Place ${position} in the queue` : "Thinking…"}</p>}
        {error && <p role="alert">{words(error)}</p>}
      </div>
      <form onSubmit={send}>
        <input aria-label="Your message" value={question} onChange={(event) => setQuestion(event.target.value)} />
        {busy ? <button type="button" onClick={stop}>Stop</button> : <button>Send</button>}
        {!busy && messages.length > 0 && <button type="button" onClick={() => regenerate()}>Ask again</button>}
      </form>
    </main>
  );
}

/** What the gateway tells of an answer when it is complete. */
function Strip({ ttft_ms, tokens_per_second, cached, generation }) {
  const told = [
    ttft_ms != null && `first word after ${Math.round(ttft_ms)} ms`,
    tokens_per_second > 0 && `${tokens_per_second} tokens/s`,
    cached && "cached",
    `policy generation ${generation}`,
  ];
  return <p className="strip">{told.filter(Boolean).join(" · ")}</p>;
}
