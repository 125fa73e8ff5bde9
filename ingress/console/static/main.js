import { speakAsKept } from "./i18n.js";
import { wearAsKept } from "./look.js";
import { watch } from "./models.js";
import { html, render } from "./ui.js";
import { Shell } from "./views/shell.js";

wearAsKept();
speakAsKept();
watch();
const app = document.getElementById("app");
app.replaceChildren();
render(html`<${Shell} />`, app);
