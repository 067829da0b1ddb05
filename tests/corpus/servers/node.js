// Says what Node.js has understood. The count stands still for a body that did not come to its end.
const http = require("node:http");

let count = 0;
const server = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("error", () => {});
  request.on("end", () => {
    count += 1;
    const answer = {
      method: request.method,
      target: request.url,
      host: request.headers.host,
      body: Buffer.concat(pieces).toString("latin1"),
      key: request.headers["idempotency-key"],
      n: count,
    };
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(answer));
  });
});
server.keepAliveTimeout = 60_000;
server.listen(Number(process.argv[2]), "127.0.0.1");
