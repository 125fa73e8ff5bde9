// Server-sent events, from the pieces in which they come.

export class Events {
  #line = "";
  #data = [];

  /** The data of each event that is whole with this piece. */
  take(piece) {
    const lines = (this.#line + piece).split("\n");
    this.#line = lines.pop();
    const found = [];
    for (const whole of lines) {
      const line = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
      if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && this.#data.length) found.push(this.#data.splice(0).join("\n"));
    }
    return found;
  }
}
