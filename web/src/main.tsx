/** The page's address in, the page out. */

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { readMoment } from "./link/moment";
import { LiveSession } from "./live/session";
import { ASSUMED } from "./server/schema";
import { Page } from "./page/page";
import "./page/page.css";

const session = new LiveSession(readMoment(location.search), ASSUMED);

createRoot(document.getElementById("page")!).render(
  <StrictMode>
    <Page session={session} />
  </StrictMode>,
);
