// Talking to `tlt review`: what is read, and what is saved, one after the other and never dropped.

export class Refused extends Error {
  constructor(code, content) { super(content.error || `error ${code}`); this.code = code; this.content = content; }
}

let csrf = "";
let queue = Promise.resolve();
export const pending = { count: 0, onChange: () => {} };

async function answerOf(answer) {
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

export async function read(path) {
  return answerOf(await fetch(path));
}

export async function readState() {
  const state = await read("/api/state");
  csrf = state.csrf;
  return state;
}

/** Send a change; while the server does not answer it is sent again, so that nothing is lost. */
export function send(path, content) {
  const request = { ...content, request_id: crypto.randomUUID() };
  count(1);
  const sent = queue.then(() => untilAnswered(path, request)).finally(() => count(-1));
  queue = sent.catch(() => null);
  return sent;
}

async function untilAnswered(path, request) {
  for (;;) {
    try {
      return await answerOf(await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-TLT-CSRF": csrf },
        body: JSON.stringify(request),
      }));
    } catch (error) {
      const ended = error instanceof Refused && (error.code === 401 || error.code === 403);
      if (error instanceof Refused && !ended) throw error;
      pending.onChange(pending.count, ended
        ? "not saved yet: tlt review was started anew; open the address that it printed in this browser"
        : "not saved yet: tlt review does not answer; trying again");
      await new Promise((done) => setTimeout(done, 1500));
      // A server that was started anew has another second token.
      await readState().catch(() => null);
    }
  }
}

function count(change) {
  pending.count += change;
  pending.onChange(pending.count, "");
}
