// Colours of a terminal (SGR) as names of classes.

const MARK = /\x1b\[([0-9;]*)([A-Za-z])/g;
const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/** [{text, classes}]: classes separated by spaces, empty for plain text. Other marks than colours are left out. */
export function spans(line) {
  if (!line.includes("\x1b")) return [{ text: line, classes: "" }];
  const found = [];
  let style = {};
  let at = 0;
  const add = (text) => text && found.push({ text, classes: Object.values(style).join(" ") });
  for (const mark of line.matchAll(MARK)) {
    add(line.slice(at, mark.index));
    at = mark.index + mark[0].length;
    if (mark[2] === "m") style = styled(style, mark[1].split(";").map(Number));
  }
  add(line.slice(at));
  return found.length ? found : [{ text: "", classes: "" }];
}

function styled(before, codes) {
  const style = { ...before };
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) for (const key of Object.keys(style)) delete style[key];
    else if (code === 1) style.weight = "ansi-bold";
    else if (code === 2) style.weight = "ansi-dim";
    else if (code === 22) delete style.weight;
    else if (code === 39) delete style.colour;
    else if (code === 38 || code === 48) i += codes[i + 1] === 5 ? 2 : 4; // 256 colours and RGB: the text stays plain
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) style.colour = `ansi-${COLOURS[code % 10]}`;
  }
  return style;
}
