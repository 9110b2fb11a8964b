"use client";

import { useChat } from "@ai-sdk/react";
import { useEffect, useState } from "react";
import { remembered, transport, words } from "./stent.js";

export default function Page() {
  const [chat, setChat] = useState(null);
  // What is kept lies in the browser, where this page is not rendered first.
  useEffect(() => {
    remembered().then(setChat);
  }, []);
  return chat && <Chat {...chat} />;
}

function Chat({ id, messages: said, resume }) {
  const [note, setNote] = useState(null);
  const [question, setQuestion] = useState("");
  const { messages, sendMessage, regenerate, stop, status, error } = useChat({
    id,
    messages: said,
    resume,
    transport,
    onData: ({ data }) => setNote(data),
  });
  const busy = status === "submitted" || status === "streaming";
  const state = busy && waits(note, messages.at(-1));

  function send(event) {
    event.preventDefault();
    if (!question.trim() || busy) return;
    setNote(null);
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
        {state && <p className="state">{state}</p>}
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

/** What an answer waits for, if it does. */
function waits(note, last) {
  if (note?.type === "reconnecting") return "The connection was lost. Reconnecting…";
  if (last?.role === "assistant" && last.parts.some((part) => part.type === "text")) return null;
  return note?.type === "queued" && note.position > 0 ? `Place ${note.position} in the queue` : "Thinking…";
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
