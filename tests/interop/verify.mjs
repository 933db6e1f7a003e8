// Somebody else's verifier, asked over standard input: one JSON object in, one out.
// In:  {"do": "verify" | "sign", "secret", "id", "timestamp", "signature", "body"}, the timestamp in Unix seconds.
// Out: {"valid": true | false} or {"signature": "v1,…"}.
import { text } from "node:stream/consumers";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const asked = JSON.parse(await text(process.stdin));
const webhook = new Webhook(asked.secret);

function isValid() {
  try {
    webhook.verify(asked.body, {
      "webhook-id": asked.id,
      "webhook-timestamp": String(asked.timestamp),
      "webhook-signature": asked.signature,
    });
    return true;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
}

const answer =
  asked.do === "sign"
    ? { signature: webhook.sign(asked.id, new Date(asked.timestamp * 1000), asked.body) }
    : { valid: isValid() };
process.stdout.write(JSON.stringify(answer));
